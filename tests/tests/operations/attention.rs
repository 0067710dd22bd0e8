//! Attention over all pages and over those that are listed.

use burn::tensor::{Int, Tensor};
use quest_burn::{
    QuestConfig, ops,
    policy::{PageSelection, Pages},
};
use quest_burn_tests::{
    arrays::{assert_close, rows, values},
    catalogue::AttentionShape,
    filled::Filled,
    naive,
};

use super::{TOLERANCE, for_each_shape, heads_of, listed};

fn scale(shape: &AttentionShape) -> f64 {
    1.0 / (shape.head_dim as f64).sqrt()
}

#[test]
fn attention_over_all_pages_equals_the_naive_one() {
    for_each_shape(|shape, filled, query, context| {
        let output = ops::paged_attention(
            query.clone(),
            filled.layer(),
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

pub(super) fn assert_listed_attention(
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
            sink_pages: 0,
            recent_pages: preset.selection(shape.page_size).recent_pages,
        };
        let pages = ops::top_pages(scores, &filled.step, &selection);
        let output = ops::paged_attention(
            query.clone(),
            filled.layer(),
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
                filled.layer(),
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
