//! The operations of a decode step against naive oracles, over the catalogue of shapes, in caches
//! whose unfilled rows are NaN.

use burn::tensor::{Device, Int, Tensor};
use proptest::{prelude::*, sample::select};
use quest_burn::{
    NewestPage, PageSharing, QuestConfig, ops,
    policy::{PageSelection, Pages},
};
use quest_burn_tests::{
    arrays::{assert_close, random, rows, values},
    cases,
    catalogue::{AttentionShape, attention_shapes},
    devices::devices,
    filled::Filled,
    naive,
};
use rand::{SeedableRng, rngs::StdRng};

/// f32 sums of up to some thousand products of values in -2..2.
const TOLERANCE: f64 = 2e-5;

/// Calls `test` with a filled cache and a query, for every device and shape.
fn for_each_shape(test: impl Fn(&AttentionShape, &Filled, Tensor<3>, &str)) {
    for device in devices() {
        for (seed, shape) in attention_shapes().iter().enumerate() {
            let (filled, query) = filled(shape, &device.device, seed as u64);
            test(shape, &filled, query, &format!("{device}, {shape}"));
        }
    }
}

fn filled(shape: &AttentionShape, device: &Device, seed: u64) -> (Filled, Tensor<3>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let filled = Filled::new(shape, device, &mut rng);
    let query = [shape.lengths.len(), shape.n_heads, shape.head_dim];
    (filled, random(query, device, &mut rng))
}

/// Query heads of one sequence.
fn heads_of(query: &Tensor<3>, sequence: usize) -> Vec<Vec<f64>> {
    rows(&query.clone().slice([sequence..sequence + 1]))
}

fn scale(shape: &AttentionShape) -> f64 {
    1.0 / (shape.head_dim as f64).sqrt()
}

/// Pages that each list of each sequence names.
fn listed(pages: Pages) -> Vec<Vec<Vec<usize>>> {
    let Pages::Listed { ids, counts } = pages else {
        panic!("a list of pages was expected");
    };
    let [_, lists, k] = ids.dims();
    let ids = ids
        .into_data()
        .convert::<i64>()
        .try_to_vec::<i64>()
        .expect("converted to i64");
    counts
        .iter()
        .zip(ids.chunks(lists * k))
        .map(|(&count, ids)| {
            let list = |ids: &[i64]| {
                assert!(
                    ids[count..].iter().all(|&id| id == -1),
                    "padding in {ids:?}"
                );
                ids[..count].iter().map(|&id| id as usize).collect()
            };
            ids.chunks(k).map(list).collect()
        })
        .collect()
}

#[test]
fn digests_are_the_extremes_of_each_page() {
    for_each_shape(|shape, filled, _, context| {
        let digests = rows(filled.layer().digests());
        for (sequence, heads) in filled.keys.iter().enumerate() {
            for (head, keys) in heads.iter().enumerate() {
                let pages = filled
                    .step
                    .pages(sequence)
                    .iter()
                    .zip(keys.chunks(shape.page_size));
                for (&page, keys) in pages {
                    let row = (page as usize * shape.n_kv_heads + head) * 2;
                    for channel in 0..shape.head_dim {
                        let of_channel = keys.iter().map(|key| key[channel]);
                        let min = of_channel.clone().fold(f64::INFINITY, f64::min);
                        let max = of_channel.fold(f64::NEG_INFINITY, f64::max);
                        let found = (digests[row][channel], digests[row + 1][channel]);
                        assert_eq!(
                            found,
                            (min, max),
                            "{context}: pool page {page}, head {head}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn page_scores_bound_every_key_and_equal_the_naive_scores() {
    for_each_shape(|shape, filled, query, context| {
        assert_page_scores(shape, filled, &query, context);
    });
}

fn assert_page_scores(shape: &AttentionShape, filled: &Filled, query: &Tensor<3>, context: &str) {
    let group = shape.n_heads / shape.n_kv_heads;
    for sharing in [PageSharing::QueryHead, PageSharing::KvHead] {
        let scores = ops::page_scores(query.clone(), filled.layer(), &filled.step, sharing);
        let [_, lists, _] = scores.dims();
        let scores = rows(&scores);
        for sequence in 0..shape.lengths.len() {
            let heads = heads_of(query, sequence);
            for (list, queries) in heads.chunks(shape.n_heads / lists).enumerate() {
                let keys = &filled.keys[sequence][list * (shape.n_heads / lists) / group];
                for (page, keys) in keys.chunks(shape.page_size).enumerate() {
                    let score = scores[sequence * lists + list][page];
                    let expected = queries.iter().map(|query| naive::page_score(query, keys));
                    let expected = expected.fold(f64::NEG_INFINITY, f64::max);
                    let context = format!("{context}: sequence {sequence}, page {page}");
                    assert_close(&[score], &[expected], TOLERANCE, &context);
                    for (query, key) in queries
                        .iter()
                        .flat_map(|q| keys.iter().map(move |k| (q, k)))
                    {
                        let product = query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                        let bound = score + rounding(query, keys);
                        assert!(product <= bound, "{context}: {product} above {bound}");
                    }
                }
            }
        }
    }
}

/// How far rounding can take a page's score below the exact sum: a sum of `2 d` products in f32, in
/// whatever order, is within `2 d * epsilon` of the sum of their absolute values.
fn rounding(query: &[f64], keys: &[Vec<f64>]) -> f64 {
    let highest = |channel: usize| {
        keys.iter()
            .map(|key| key[channel].abs())
            .fold(0.0, f64::max)
    };
    let total = query
        .iter()
        .enumerate()
        .map(|(channel, q)| q.abs() * highest(channel))
        .sum::<f64>();
    2.0 * query.len() as f64 * f64::from(f32::EPSILON) * total
}

#[test]
fn top_pages_are_those_of_a_naive_sort() {
    for_each_shape(|shape, filled, query, context| {
        for (newest_page, sink_pages) in [
            (NewestPage::Pinned, 0),
            (NewestPage::Competes, 0),
            (NewestPage::Competes, 1),
        ] {
            let selection = PageSelection {
                k: shape.budget_pages,
                newest_page,
                sink_pages,
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
            newest_page: NewestPage::Competes,
            sink_pages: 0,
        };
        assert_top_pages(coarse, filled, &selection, context);
    });
}

fn assert_top_pages(scores: Tensor<3>, filled: &Filled, selection: &PageSelection, context: &str) {
    let [_, lists, max_pages] = scores.dims();
    let host = values(&scores);
    let found = listed(ops::top_pages(scores, &filled.step, selection));
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
}

fn naive_top_pages(scores: &[f32], selection: &PageSelection) -> Vec<usize> {
    let newest = scores.len() - 1;
    let is_kept = |page: usize| {
        page < selection.sink_pages
            || (page == newest && selection.newest_page == NewestPage::Pinned)
    };
    let mut pages = (0..scores.len()).collect::<Vec<_>>();
    pages.sort_by(|&a, &b| {
        let best_first = (is_kept(b), scores[b]).partial_cmp(&(is_kept(a), scores[a]));
        best_first.expect("scores are numbers").then(a.cmp(&b))
    });
    pages.truncate(selection.k);
    pages.sort_unstable();
    pages
}

#[test]
fn attention_over_all_pages_equals_the_naive_one() {
    for_each_shape(|shape, filled, query, context| {
        let output = ops::paged_attention(
            query.clone(),
            &mut filled.layer().clone(),
            &Pages::All,
            &filled.step,
            scale(shape),
        );
        let everything = |sequence: usize, _list: usize| (0..shape.lengths[sequence]).collect();
        assert_attention(shape, filled, &query, output, everything, context);
    });
}

#[test]
fn attention_over_listed_pages_reads_nothing_else() {
    for_each_shape(|shape, filled, query, context| {
        assert_listed_attention(shape, filled, &query, context);
    });
}

fn assert_listed_attention(
    shape: &AttentionShape,
    filled: &Filled,
    query: &Tensor<3>,
    context: &str,
) {
    for preset in [
        QuestConfig::accuracy_code(),
        QuestConfig::kernels(),
        QuestConfig::kv_group(),
    ] {
        let scores = ops::page_scores(query.clone(), filled.layer(), &filled.step, preset.sharing);
        let [_, lists, _] = scores.dims();
        let selection = PageSelection {
            k: shape.budget_pages,
            newest_page: preset.newest_page,
            sink_pages: 0,
        };
        let pages = ops::top_pages(scores, &filled.step, &selection);
        let output = ops::paged_attention(
            query.clone(),
            &mut filled.layer().clone(),
            &pages,
            &filled.step,
            scale(shape),
        );
        let lists_of = listed(pages);
        let tokens = |sequence: usize, head: usize| {
            let pages = &lists_of[sequence][head * lists / shape.n_heads];
            let tokens = pages
                .iter()
                .flat_map(|page| page * shape.page_size..(page + 1) * shape.page_size);
            tokens
                .filter(|&token| token < shape.lengths[sequence])
                .collect()
        };
        assert_attention(shape, filled, query, output, tokens, context);
    }
}

/// Compares with naive attention over the tokens that `tokens(sequence, query head)` names.
fn assert_attention(
    shape: &AttentionShape,
    filled: &Filled,
    query: &Tensor<3>,
    output: Tensor<3>,
    tokens: impl Fn(usize, usize) -> Vec<usize>,
    context: &str,
) {
    let output = rows(&output);
    for sequence in 0..shape.lengths.len() {
        for (head, query) in heads_of(query, sequence).iter().enumerate() {
            let kv_head = head * shape.n_kv_heads / shape.n_heads;
            let expected = naive::attend(
                query,
                &filled.keys[sequence][kv_head],
                &filled.values[sequence][kv_head],
                &tokens(sequence, head),
                scale(shape),
            );
            let found = &output[sequence * shape.n_heads + head];
            let context = format!("{context}: sequence {sequence}, head {head}");
            assert_close(found, &expected, TOLERANCE, &context);
        }
    }
}

#[test]
fn a_list_of_every_page_equals_dense_to_the_last_bit() {
    for_each_shape(|shape, filled, query, context| {
        let batch = shape.lengths.len();
        let counts = (0..batch)
            .map(|sequence| filled.step.pages(sequence).len())
            .collect::<Vec<_>>();
        let k = filled.step.max_pages();
        let attend = |pages: &Pages| {
            let query = query.clone();
            values(&ops::paged_attention(
                query,
                &mut filled.layer().clone(),
                pages,
                &filled.step,
                scale(shape),
            ))
        };
        let page = Tensor::<1, Int>::arange(0..k as i64, &query.device());
        let ids = page.reshape([1, 1, k]).expand([batch, shape.n_kv_heads, k]);
        let listed = attend(&Pages::Listed { ids, counts });
        assert_eq!(listed, attend(&Pages::All), "{context}");
    });
}

fn shape() -> impl Strategy<Value = AttentionShape> {
    (
        select(vec![8, 16, 32, 64, 128]),
        select(vec![2, 8, 24, 40, 128]),
        (1usize..5, 1usize..5),
        prop::collection::vec(1usize..300, 1..4),
        1usize..12,
    )
        .prop_map(
            |(page_size, head_dim, (n_kv_heads, group), lengths, budget_pages)| AttentionShape {
                page_size,
                head_dim,
                n_heads: n_kv_heads * group,
                n_kv_heads,
                lengths,
                budget_pages,
            },
        )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn scores_and_attention_equal_the_naive_ones(shape in shape(), seed: u64) {
        for device in devices() {
            let (filled, query) = filled(&shape, &device.device, seed);
            assert_page_scores(&shape, &filled, &query, device.name.as_str());
            assert_listed_attention(&shape, &filled, &query, device.name.as_str());
        }
    }
}
