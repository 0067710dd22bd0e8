use burn::tensor::{Int, Tensor};
use quest_burn::{
    PageSharing, ops,
    policy::{PageSelection, Pages},
};
use quest_burn_tests::{
    arrays::{assert_close, random, rows, values},
    naive,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{TOLERANCE, for_each_device, for_each_shape, rounded};

#[test]
fn attention_is_that_of_the_rounded_rows_and_close_to_that_of_the_exact_ones() {
    for_each_shape(|shape, filled, query, context| {
        let scale = 1.0 / (shape.head_dim as f64).sqrt();
        let (layer, step) = (filled.layer(), &filled.step);
        let output = ops::paged_attention(query.clone(), layer, &Pages::All, step, scale);
        let output = rows(&output);
        for (sequence, &length) in shape.lengths.iter().enumerate() {
            let heads = rows(&query.clone().slice([sequence..sequence + 1]));
            for (head, query) in heads.iter().enumerate() {
                let kv_head = head * shape.n_kv_heads / shape.n_heads;
                let (keys, values) = (
                    &filled.keys[sequence][kv_head],
                    &filled.values[sequence][kv_head],
                );
                let (rounded_keys, key_steps) = rounded(keys);
                let (rounded_values, value_steps) = rounded(values);
                let tokens = (0..length).collect::<Vec<_>>();
                let found = &output[sequence * shape.n_heads + head];
                let context = format!("{context}: sequence {sequence}, head {head}");
                let of_rounded =
                    naive::attend(query, &rounded_keys, &rounded_values, &tokens, scale);
                assert_close(found, &of_rounded, 5.0 * TOLERANCE, &context);

                // A score is off by at most `e`, the query's absolute sum times half a step; a weight then
                // by a factor of at most exp(2 e), and a value by half a step of its own.
                let exact = naive::attend(query, keys, values, &tokens, scale);
                let largest = |x: &[f64]| x.iter().copied().fold(0.0, f64::max);
                let sum = query.iter().map(|q| q.abs()).sum::<f64>();
                let e = scale * sum * largest(&key_steps);
                let bound = ((2.0 * e).exp() - 1.0) * 2.0 + largest(&value_steps);
                for (found, exact) in found.iter().zip(&exact) {
                    let off = (found - exact).abs();
                    assert!(
                        off <= bound + TOLERANCE,
                        "{context}: {off}, at most {bound}"
                    );
                }
            }
        }
    });
}

#[test]
fn a_budget_that_covers_every_page_is_dense_attention_to_the_last_bit() {
    for_each_shape(|shape, filled, query, context| {
        let (layer, step) = (filled.layer(), &filled.step);
        let attend = |pages: &Pages| {
            values(&ops::paged_attention(
                query.clone(),
                layer,
                pages,
                step,
                0.25,
            ))
        };
        let dense = attend(&Pages::All);
        let batch = shape.lengths.len();
        let k = step.max_pages();
        let counts = (0..batch).map(|sequence| step.pages(sequence).len());
        let ids = Tensor::<1, Int>::arange(0..k as i64, &query.device())
            .reshape([1, 1, k])
            .expand([batch, shape.n_kv_heads, k]);
        let counts = counts.collect::<Vec<_>>();
        assert_eq!(attend(&Pages::Listed { ids, counts }), dense, "{context}");

        let selection = PageSelection {
            k,
            sink_pages: 0,
            recent_pages: 0,
        };
        let at_once = ops::top_k_attention(
            query.clone(),
            layer,
            step,
            &selection,
            PageSharing::KvHead,
            0.25,
        );
        assert_eq!(values(&at_once), dense, "{context}");
    });
}

#[test]
fn chosen_pages_are_read_as_they_are_kept() {
    for_each_shape(|shape, filled, query, context| {
        let scale = 1.0 / (shape.head_dim as f64).sqrt();
        let (layer, step) = (filled.layer(), &filled.step);
        let scores = ops::page_scores(query.clone(), layer, step, PageSharing::KvHead);
        let selection = PageSelection {
            k: shape.budget_pages,
            sink_pages: 0,
            recent_pages: 1,
        };
        let pages = ops::top_pages(scores, step, &selection);
        let by_pages = ops::paged_attention(query.clone(), layer, &pages, step, scale);
        let at_once = ops::top_k_attention(
            query.clone(),
            layer,
            step,
            &selection,
            PageSharing::KvHead,
            scale,
        );
        assert_eq!(values(&at_once), values(&by_pages), "{context}");

        let Pages::Listed { ids, counts } = &pages else {
            panic!("a list of pages was expected");
        };
        let lists = rows(&ids.clone().float());
        let by_pages = rows(&by_pages);
        for (sequence, &length) in shape.lengths.iter().enumerate() {
            let heads = rows(&query.clone().slice([sequence..sequence + 1]));
            for (head, query) in heads.iter().enumerate() {
                let kv_head = head * shape.n_kv_heads / shape.n_heads;
                let list = &lists[sequence * shape.n_kv_heads + kv_head][..counts[sequence]];
                let tokens = list.iter().flat_map(|&page| {
                    let first = page as usize * shape.page_size;
                    first..length.min(first + shape.page_size)
                });
                let (keys, _) = rounded(&filled.keys[sequence][kv_head]);
                let (values, _) = rounded(&filled.values[sequence][kv_head]);
                let tokens = tokens.collect::<Vec<_>>();
                let expected = naive::attend(query, &keys, &values, &tokens, scale);
                let found = &by_pages[sequence * shape.n_heads + head];
                assert_close(found, &expected, 5.0 * TOLERANCE, context);
            }
        }
    });
}

#[test]
fn single_tokens_are_scored_as_they_are_kept() {
    for_each_device(|device, shape, filled, query, context| {
        let (layer, step) = (filled.layer(), &filled.step);
        for sequence in 0..shape.lengths.len() {
            let heads = rows(&query.clone().slice([sequence..sequence + 1]));
            let scores = ops::token_scores(query.clone(), layer, step, sequence);
            for (head, found) in rows(&scores).iter().enumerate() {
                let kv_head = head * shape.n_kv_heads / shape.n_heads;
                let (keys, _) = rounded(&filled.keys[sequence][kv_head]);
                let of_key = |key: &Vec<f64>| {
                    key.iter()
                        .zip(&heads[head])
                        .map(|(k, q)| k * q)
                        .sum::<f64>()
                };
                let expected = keys.iter().map(of_key).collect::<Vec<f64>>();
                // Scores are a product of matrices, and sums cancel.
                assert_close(found, &expected, device.tolerance_of_sums(1e-4), context);
            }
        }
    });
}

#[test]
fn a_prompt_sees_the_rows_as_they_are_kept() {
    for_each_shape(|shape, filled, _, context| {
        // The newest token of each sequence, as a prompt of one token and as a decoded one.
        let mut rng = StdRng::seed_from_u64(9);
        let batch = shape.lengths.len();
        let query: Tensor<3> = random(
            [batch, shape.n_heads, shape.head_dim],
            &filled.layer().device(),
            &mut rng,
        );
        let (layer, step) = (filled.layer(), &filled.step);
        let decoded = ops::paged_attention(query.clone(), layer, &Pages::All, step, 0.2);
        let prompt = ops::prefill_attention(query.unsqueeze_dim(2), layer, step, 0.2);
        let flat = |tensor: &Tensor<3>| rows(tensor).concat();
        let prompt = prompt.squeeze_dim::<3>(2);
        assert_close(&flat(&prompt), &flat(&decoded), TOLERANCE, context);
    });
}
