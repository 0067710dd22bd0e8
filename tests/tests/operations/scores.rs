//! Page scores.

use burn::tensor::Tensor;
use quest_burn::{FixedPoint, GroupRule, PageScoring, PageSharing, ops};
use quest_burn_tests::{
    arrays::{assert_close, rows},
    catalogue::AttentionShape,
    filled::Filled,
    naive,
};

use super::{TOLERANCE, for_each_digest, heads_of};

#[test]
fn a_group_s_mean_and_other_deviations_are_scored_as_naively() {
    let deviations = Some("0.75".parse::<FixedPoint>().unwrap());
    for_each_digest(|shape, filled, query, context| {
        let scoring = PageScoring {
            sharing: PageSharing::KvHead,
            group_rule: GroupRule::Mean,
            deviations,
        };
        let kind = filled.layer().digest();
        let scores = ops::page_scores(query.clone(), filled.layer(), &filled.step, scoring);
        let [_, lists, _] = scores.dims();
        let scores = rows(&scores);
        let group = shape.n_heads / shape.n_kv_heads;
        for sequence in 0..shape.lengths.len() {
            let heads = heads_of(&query, sequence);
            for (head, queries) in heads.chunks(group).enumerate() {
                let pages = filled.keys[sequence][head].chunks(shape.page_size);
                for (page, keys) in pages.enumerate() {
                    let digest = naive::digest(kind, keys).concat();
                    let of_head =
                        |query: &Vec<f64>| naive::scaled_digest_score(kind, 0.75, query, &digest);
                    let expected = queries.iter().map(of_head).sum::<f64>() / group as f64;
                    let found = scores[sequence * lists + head][page];
                    let context = format!("{context}: sequence {sequence}, page {page}");
                    assert_close(&[found], &[expected], TOLERANCE, &context);
                }
            }
        }
    });
}

#[test]
fn page_scores_equal_the_naive_scores_and_bound_every_key_where_the_digest_promises_it() {
    for_each_digest(|shape, filled, query, context| {
        assert_page_scores(shape, filled, &query, context);
    });
}

pub(super) fn assert_page_scores(
    shape: &AttentionShape,
    filled: &Filled,
    query: &Tensor<3>,
    context: &str,
) {
    let digest = filled.layer().digest();
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
                    let expected = queries
                        .iter()
                        .map(|query| naive::page_score(digest, query, keys));
                    let expected = expected.fold(f64::NEG_INFINITY, f64::max);
                    let context = format!("{context}: sequence {sequence}, page {page}");
                    assert_close(&[score], &[expected], TOLERANCE, &context);
                    if !digest.is_bound() {
                        continue;
                    }
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
