use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use crate::{
    cache::Step,
    pages::{PageSelection, Pages},
};

/// Reference of [`crate::ops::top_pages`].
pub fn top_pages(scores: Tensor<3>, step: &Step, selection: &PageSelection) -> Pages {
    let counts = selection.counts(step);
    let longest = counts.iter().copied().max().unwrap_or(0);
    let [_, heads, _] = scores.dims();
    let ids = (0..step.batch()).map(|sequence| {
        let (n, k) = (step.pages(sequence).len(), counts[sequence]);
        let none = || Tensor::full([1, heads, longest - k], -1, &scores.device());
        if k == 0 {
            return none();
        }
        let scores = scores.clone().slice([sequence..sequence + 1]);
        let ids = top_of_sequence(scores, n, k, selection);
        if k == longest {
            return ids;
        }
        Tensor::cat(vec![ids, none()], 2)
    });
    Pages::Listed {
        ids: Tensor::cat(ids.collect(), 0),
        counts,
    }
}

/// The places of the `k` highest values of each row, ascending; ties go to the lower place.
///
/// # Shapes
///
/// - values: `[rows, n]`
/// - output: `[rows, k]`
pub fn best_places(values: Tensor<2>, k: usize) -> Tensor<2, Int> {
    let [_, n] = values.dims();
    let selection = PageSelection {
        k,
        sink_pages: 0,
        recent_pages: 0,
    };
    top_of_sequence(values.unsqueeze_dim(0), n, k, &selection).squeeze_dim(0)
}

/// The `k` best of the first `n` pages: `[1, heads, max_pages]` -> `[1, heads, k]`.
fn top_of_sequence(
    scores: Tensor<3>,
    n: usize,
    k: usize,
    selection: &PageSelection,
) -> Tensor<3, Int> {
    let [_, heads, _] = scores.dims();
    let device = scores.device();
    let page = Tensor::<1, Int>::arange(0..n as i64, &device).reshape([1, 1, n]);
    let page = page.expand([1, heads, n]);
    if k == n {
        return page;
    }
    let scores = always_kept(scores.slice_dim(2, 0..n), selection);

    // Everything above the k-th highest score is in; of those equal to it, the lowest pages.
    let kth = scores.clone().sort_descending(2).slice_dim(2, k - 1..k);
    let kth = kth.expand([1, heads, n]);
    let above = scores.clone().greater(kth.clone());
    let equal = scores.equal(kth).int();
    let missing = above.clone().int().sum_dim(2) * -1 + k as i32;
    let rank = equal.clone().cumsum(2);
    let chosen = rank
        .lower_equal(missing.expand([1, heads, n]))
        .bool_and(equal.bool())
        .bool_or(above);

    // A chosen page goes to the slot that counts the chosen pages before it; the others go to one
    // slot too many, which is cut off.
    let chosen_int = chosen.clone().int();
    let slot = chosen_int.clone().cumsum(2) - 1;
    let slot = slot.mask_fill(chosen.bool_not(), k as i32);
    Tensor::<3, Int>::zeros([1, heads, k + 1], &device)
        .scatter(2, slot, page * chosen_int, IndexingUpdateOp::Add)
        .slice_dim(2, 0..k)
}

/// Gives the pages that are always kept the highest score of all.
fn always_kept(scores: Tensor<3>, selection: &PageSelection) -> Tensor<3> {
    let [_, heads, n] = scores.dims();
    let mut scores = scores;
    if selection.sink_pages > 0 {
        scores = scores.slice_fill([0..1, 0..heads, 0..selection.sink_pages.min(n)], f32::MAX);
    }
    if selection.recent_pages > 0 {
        let recent = n.saturating_sub(selection.recent_pages)..n;
        scores = scores.slice_fill([0..1, 0..heads, recent], f32::MAX);
    }
    scores
}
