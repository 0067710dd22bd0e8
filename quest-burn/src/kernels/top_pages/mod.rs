//! The pages with the highest scores.

mod candidates;
mod choice;
mod kernel;
mod keys;
mod segments;
mod threshold;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor, assert_shape},
};

pub(super) use self::kernel::{launch, launch_renewal};
use super::check::{check_dtype, check_scores, check_selection};
use super::extension::QuestOps;
use crate::pages::PageSelection;

/// How [`top_pages`] chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopPages {
    /// Tokens of a page.
    pub page_size: usize,
    /// How many pages, and which are always in.
    pub selection: PageSelection,
    /// Pages that are still to come, of those `k`: 0 for a list that serves one step.
    pub coming_pages: usize,
}

/// The `k` pages with the highest scores of each sequence and head, ascending; ties go to the
/// lower page. A sequence of no more than `k` pages lists all of them, then -1.
///
/// The first `sink_pages` and the last `recent_pages` are always in and count in `k`. Where lists serve several
/// steps, the last `coming_pages` of the `k` are the pages that a sequence takes next, and one of no more than `k`
/// pages lists those that follow instead of -1.
///
/// # Shapes
///
/// - scores: `[batch, heads, n_scores]` in f32
/// - lengths: `[batch]`
/// - output: `[batch, heads, k]` in i32
///
/// # Panics
///
/// When shapes do not fit together, there are no scores, or more pages are always kept than `k`.
pub fn top_pages(scores: Tensor<3>, lengths: Tensor<1, Int>, top: TopPages) -> Tensor<3, Int> {
    check_top_pages(&scores, &lengths, &top);
    Tensor::from_dispatch(Dispatch::top_pages(
        scores.into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        top,
    ))
}

/// [`top_pages`] of the sequences that are due, in place of their lists in `ids`; those of others stay.
///
/// # Shapes
///
/// - scores: `[batch, heads, n_scores]` in f32
/// - lengths: `[batch]`
/// - due: `[batch]`, 0 or 1, in i32
/// - ids, output: `[batch, heads, k]` in i32
///
/// # Panics
///
/// As [`top_pages`], and when the lists cannot be written in place (with the `fusion` feature at the next
/// synchronisation).
pub fn renew_top_pages(
    scores: Tensor<3>,
    lengths: Tensor<1, Int>,
    due: Tensor<1, Int>,
    ids: Tensor<3, Int>,
    top: TopPages,
) -> Tensor<3, Int> {
    check_top_pages(&scores, &lengths, &top);
    let [batch, heads, _] = scores.dims();
    assert_shape!(due, [batch]);
    assert_shape!(ids, [batch, heads, top.selection.k]);
    check_dtype("due sequences", due.dtype(), DType::I32);
    check_dtype("lists of pages", ids.dtype(), DType::I32);
    Tensor::from_dispatch(Dispatch::renew_top_pages(
        scores.into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        due.into_dispatch(),
        ids.into_dispatch(),
        top,
    ))
}

fn check_top_pages(scores: &Tensor<3>, lengths: &Tensor<1, Int>, top: &TopPages) {
    let [batch, heads, n_scores] = scores.dims();
    assert!(
        batch > 0 && heads > 0,
        "page scores: expected sequences and heads, found {batch} sequences of {heads} heads"
    );
    assert_shape!(lengths, [batch]);
    check_dtype("page scores", scores.dtype(), DType::F32);
    assert!(top.page_size > 0, "page size: expected at least 1, found 0");
    check_scores(n_scores);
    check_selection(&top.selection, top.coming_pages);
}
