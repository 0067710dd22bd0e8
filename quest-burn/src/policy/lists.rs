//! Lists of pages that are made on the host.

use burn::tensor::{Device, Tensor, TensorData};

use super::Pages;
use crate::cache::Step;

/// Scores of pages on the host, `[sequence][list][page]`.
///
/// # Shapes
///
/// - scores: `[batch, lists, max_pages]`
pub(super) fn scores_on_host(scores: Tensor<3>, step: &Step) -> Vec<Vec<Vec<f32>>> {
    let [_, lists, max_pages] = scores.dims();
    let scores = scores.into_data().convert::<f32>().try_to_vec::<f32>();
    let scores = scores.expect("converted to f32");
    (0..step.batch())
        .map(|sequence| {
            let n = step.pages(sequence).len();
            let of_list = |list: usize| {
                let start = (sequence * lists + list) * max_pages;
                scores[start..start + n].to_vec()
            };
            (0..lists).map(of_list).collect()
        })
        .collect()
}

/// The pages of each list of each sequence, `[sequence][list][n]`, ascending; the lists of a sequence
/// are equally long.
pub(super) fn listed(sequences: &[Vec<Vec<usize>>], device: &Device) -> Pages {
    let count = |lists: &Vec<Vec<usize>>| lists.first().map_or(0, Vec::len);
    let counts = sequences.iter().map(count).collect::<Vec<_>>();
    let n_lists = sequences.first().map_or(0, Vec::len);
    let longest = counts.iter().copied().max().unwrap_or(0);
    let mut ids = Vec::with_capacity(sequences.len() * n_lists * longest);
    for (lists, &count) in sequences.iter().zip(&counts) {
        assert_eq!(lists.len(), n_lists, "lists of each sequence");
        for list in lists {
            assert_eq!(list.len(), count, "pages in each list of a sequence");
            ids.extend(list.iter().map(|&page| page as i32));
            ids.resize(ids.len() + longest - count, -1);
        }
    }
    let ids = TensorData::new(ids, [sequences.len(), n_lists, longest]);
    Pages::Listed {
        ids: Tensor::from_data(ids, device),
        counts,
    }
}

/// The `k` places of the highest values, ascending; ties go to the lower place.
pub(super) fn best(values: &[f32], k: usize) -> Vec<usize> {
    let mut best = ranked(values);
    best.truncate(k);
    best.sort_unstable();
    best
}

/// All places, those of the highest values first, of equal ones the lower.
pub(super) fn ranked(values: &[f32]) -> Vec<usize> {
    let mut places = (0..values.len()).collect::<Vec<_>>();
    places.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_ascending_and_ties_go_to_the_lower_place() {
        assert_eq!(best(&[1.0, 3.0, 2.0, 3.0, 2.0], 3), [1, 2, 3]);
        assert_eq!(best(&[1.0, 3.0], 5), [0, 1]);
        assert_eq!(ranked(&[1.0, f32::INFINITY, 1.0]), [1, 0, 2]);
    }

    #[test]
    fn lists_of_shorter_sequences_end_with_what_is_no_page() {
        let lists = [vec![vec![0, 2], vec![1, 2]], vec![vec![0], vec![0]]];
        let Pages::Listed { ids, counts } = listed(&lists, &Device::default()) else {
            panic!("a list was expected");
        };
        assert_eq!(counts, [2, 1]);
        let ids = ids.into_data().convert::<i64>().try_to_vec::<i64>();
        assert_eq!(ids.unwrap(), [0, 2, 1, 2, 0, -1, 0, -1]);
    }
}
