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

pub(super) use self::kernel::launch;
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
}

/// The `k` pages with the highest scores of each sequence and head, ascending; ties go to the
/// lower page. A sequence of no more than `k` pages lists all of them, then -1.
///
/// The first `sink_pages` and the last `recent_pages` are always in and count in `k`.
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
    let [batch, heads, n_scores] = scores.dims();
    assert!(
        batch > 0 && heads > 0,
        "page scores: expected sequences and heads, found {batch} sequences of {heads} heads"
    );
    assert_shape!(lengths, [batch]);
    check_dtype("page scores", scores.dtype(), DType::F32);
    assert!(top.page_size > 0, "page size: expected at least 1, found 0");
    check_scores(n_scores);
    check_selection(&top.selection);
    Tensor::from_dispatch(Dispatch::top_pages(
        scores.into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        top,
    ))
}
