//! The pages with the highest scores.

use burn::tensor::Tensor;
use quest_burn::{PageSharing, ops, policy::PageSelection};
use quest_burn_tests::{arrays::values, filled::Filled};

use super::{for_each_shape, listed};

#[test]
fn top_pages_are_those_of_a_naive_sort() {
    for_each_shape(|shape, filled, query, context| {
        for (sink_pages, recent_pages) in [(0, 1), (0, 0), (1, 0), (1, 1), (2, 3)] {
            if sink_pages + recent_pages > shape.budget_pages {
                continue;
            }
            let selection = PageSelection {
                k: shape.budget_pages,
                sink_pages,
                recent_pages,
            };
            let scores = ops::page_scores(
                query.clone(),
                filled.layer(),
                &filled.step,
                PageSharing::KvHead,
            );
            assert_top_pages(scores, filled, &selection, context);
        }
    });
}

#[test]
fn of_equal_scores_the_lower_page_is_chosen() {
    for_each_shape(|shape, filled, query, context| {
        // A handful of distinct values, so that every list has ties.
        let scores = ops::page_scores(query, filled.layer(), &filled.step, PageSharing::QueryHead);
        let coarse = scores.div_scalar(shape.head_dim as f32).round();
        let selection = PageSelection {
            k: shape.budget_pages,
            sink_pages: 0,
            recent_pages: 0,
        };
        assert_top_pages(coarse, filled, &selection, context);
    });
}

fn assert_top_pages(scores: Tensor<3>, filled: &Filled, selection: &PageSelection, context: &str) {
    let [_, lists, max_pages] = scores.dims();
    let host = values(&scores);
    let found = listed(ops::top_pages(scores.clone(), &filled.step, selection));
    for (sequence, found) in found.iter().enumerate() {
        let n = filled.step.pages(sequence).len();
        for (list, found) in found.iter().enumerate() {
            let scores = &host[(sequence * lists + list) * max_pages..][..n];
            let expected = naive_top_pages(scores, selection);
            assert_eq!(
                found, &expected,
                "{context}, {selection:?}: sequence {sequence}, {scores:?}"
            );
        }
    }
    for coming in 1..=2 {
        if selection.sink_pages + selection.recent_pages + coming <= selection.k
            && coming < selection.k
        {
            assert_top_pages_ahead(scores.clone(), filled, selection, coming, context);
        }
    }
}

/// Lists for several steps, which end with the pages that sequences take next.
fn assert_top_pages_ahead(
    scores: Tensor<3>,
    filled: &Filled,
    selection: &PageSelection,
    coming: usize,
    context: &str,
) {
    let ([_, lists, max_pages], k) = (scores.dims(), selection.k);
    let host = values(&scores);
    let ids = ops::top_pages_ahead(scores, &filled.step, selection, coming);
    let ids = ids.into_data().convert::<i32>().try_to_vec::<i32>();
    for (list, found) in ids.unwrap().chunks(k).enumerate() {
        let n = filled.step.pages(list / lists).len();
        let chosen = PageSelection {
            k: k - coming,
            ..*selection
        };
        let expected = match n <= k {
            true => (0..k).collect(),
            false => {
                let scores = &host[list * max_pages..][..n];
                let chosen = naive_top_pages(scores, &chosen).into_iter();
                chosen.chain(n..n + coming).collect::<Vec<_>>()
            }
        };
        let found = found.iter().map(|&page| page as usize);
        assert_eq!(
            found.collect::<Vec<_>>(),
            expected,
            "{context}, {selection:?}, {coming} to come: list {list}"
        );
    }
}

fn naive_top_pages(scores: &[f32], selection: &PageSelection) -> Vec<usize> {
    let n = scores.len();
    let is_kept = |page: usize| page < selection.sink_pages || page + selection.recent_pages >= n;
    let mut pages = (0..scores.len()).collect::<Vec<_>>();
    pages.sort_by(|&a, &b| {
        let best_first = (is_kept(b), scores[b]).partial_cmp(&(is_kept(a), scores[a]));
        best_first.expect("scores are numbers").then(a.cmp(&b))
    });
    pages.truncate(selection.k);
    pages.sort_unstable();
    pages
}
