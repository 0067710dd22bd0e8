use burn::tensor::{Int, Tensor, TensorData};

use super::{parallel, pool};
use crate::{
    cache::Step,
    pages::{PageSelection, Pages},
};

/// [`crate::ops::top_pages`].
pub(crate) fn top_pages(scores: Tensor<3>, step: &Step, selection: &PageSelection) -> Pages {
    let [batch, lists, _] = scores.dims();
    let device = scores.device();
    let counts = selection.counts(step);
    let longest = counts.iter().copied().max().unwrap_or(0);
    let chosen = best_of_all(&pool::floats(scores), lists, step, selection);
    let mut ids = vec![-1_i32; batch * lists * longest];
    for (list, chosen) in chosen.iter().flatten().enumerate() {
        for (id, &page) in ids[list * longest..].iter_mut().zip(chosen) {
            *id = page as i32;
        }
    }
    let ids = TensorData::new(ids, [batch, lists, longest]);
    Pages::Listed {
        ids: Tensor::<3, Int>::from_data(ids, &device),
        counts,
    }
}

/// The best pages of each list of each sequence, ascending. Scores are
/// `[batch, lists, max_pages]`.
pub(super) fn best_of_all(
    scores: &[f32],
    lists: usize,
    step: &Step,
    selection: &PageSelection,
) -> Vec<Vec<Vec<u32>>> {
    let max_pages = step.max_pages();
    let tasks = (0..step.batch() * lists).collect();
    let mut chosen = parallel::map(tasks, scores.len(), |list| {
        let n = step.pages(list / lists).len();
        best(&scores[list * max_pages..][..n], selection)
    })
    .into_iter();
    (0..step.batch())
        .map(|_| chosen.by_ref().take(lists).collect())
        .collect()
}

/// The pages with the highest scores, ascending; of equal ones the lower pages.
fn best(scores: &[f32], selection: &PageSelection) -> Vec<u32> {
    let n = scores.len();
    let k = selection.k.min(n);
    if k == n || k == 0 {
        return (0..k as u32).collect();
    }
    // Rank in the upper half and page in the lower: the smallest numbers are the best pages.
    let mut ranked = scores
        .iter()
        .enumerate()
        .map(|(page, &score)| {
            let is_kept = page < selection.sink_pages || page + selection.recent_pages >= n;
            let rank = if is_kept { 0 } else { !ascending(score) };
            u64::from(rank) << 32 | page as u64
        })
        .collect::<Vec<_>>();
    ranked.select_nth_unstable(k - 1);
    let mut pages = ranked[..k].iter().map(|&r| r as u32).collect::<Vec<_>>();
    pages.sort_unstable();
    pages
}

/// Bits that are ordered like the numbers.
fn ascending(x: f32) -> u32 {
    // Adding zero makes both zeros the same.
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_ordered_like_the_numbers() {
        let numbers = [f32::MIN, -2.0, -1e-40, 0.0, 1e-40, 1.0, 1.5, f32::INFINITY];
        assert!(numbers.is_sorted_by(|&a, &b| ascending(a) < ascending(b)));
        assert_eq!(ascending(-0.0), ascending(0.0));
    }

    #[test]
    fn kept_pages_are_chosen_whatever_their_scores() {
        let selection = PageSelection {
            k: 3,
            sink_pages: 1,
            recent_pages: 1,
        };
        let scores = [-9.0, f32::INFINITY, 7.0, 7.0, f32::MIN];
        assert_eq!(best(&scores, &selection), [0, 1, 4]);
    }
}
