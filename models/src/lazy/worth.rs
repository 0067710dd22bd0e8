use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Int, Tensor};
use quest_burn::{
    cache::{LayerCache, Step},
    ops,
    policy::{PagePolicy, Pages},
};

use crate::generation::{GenerateError, read};

/// A policy that is listened to: what the tokens of one layer are worth to its newest queries.
#[derive(Debug)]
pub(super) struct Listening<'a> {
    policy: &'a dyn PagePolicy,
    layer: usize,
    queries: usize,
    heard: Mutex<Option<Tensor<1>>>,
}

impl<'a> Listening<'a> {
    /// The last `queries` new tokens of a pass say what the tokens of a layer of the model are worth.
    pub(super) fn new(policy: &'a dyn PagePolicy, layer: usize, queries: usize) -> Self {
        Self {
            policy,
            layer,
            queries,
            heard: Mutex::new(None),
        }
    }

    /// The attention that each token of the layer's cache received in the last pass, mean over heads and queries.
    pub(super) fn worth(self) -> Result<Vec<f32>, GenerateError> {
        let heard = self.heard.into_inner();
        let heard = heard.unwrap_or_else(PoisonError::into_inner);
        Ok(read(heard.expect("a pass went through the layer"))?)
    }

    /// Hears the queries of a pass, `[1, n_heads, new tokens, head_dim]`.
    fn hear(&self, query: &Tensor<4>, cache: &LayerCache, step: &Step, scale: f64) {
        if cache.index() != self.layer {
            return;
        }
        let length = step.lengths()[0];
        let new_tokens = step.new_tokens(0);
        let queries = self.queries.min(new_tokens);
        let device = query.device();
        let received = (0..queries).map(|back| {
            let query = query.clone().narrow(2, new_tokens - 1 - back, 1);
            let received = received(query.squeeze_dim(2), cache, step, length - back, scale);
            match back {
                0 => received,
                _ => Tensor::cat(
                    vec![received, Tensor::zeros([back], (&device, DType::F32))],
                    0,
                ),
            }
        });
        let sum = received.reduce(|sum, one| sum + one);
        let sum = sum.expect("a pass has new tokens");
        let worth = match queries {
            1 => sum,
            n => sum / n as f64,
        };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = Some(worth);
    }
}

/// The attention of a query to the first `n` tokens of a cache, mean over its heads: `[1, n_heads, head_dim] -> [n]`
fn received(query: Tensor<3>, cache: &LayerCache, step: &Step, n: usize, scale: f64) -> Tensor<1> {
    let [_, n_kv_heads, _, _] = cache.dims();
    let places = Tensor::<1, Int>::arange(0..n as i64, &query.device());
    let places = places.reshape([1, n]).expand([n_kv_heads, n]);
    let weights = ops::token_weights(query, cache, places, step, 0, scale);
    weights.mean_dim(0).squeeze_dim(0)
}

impl PagePolicy for Listening<'_> {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        self.policy.select(query, cache, step, scale)
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        self.hear(&query.clone().unsqueeze_dim(2), cache, step, scale);
        self.policy.attention(query, cache, step, scale)
    }

    fn prefill_attention(
        &self,
        query: Tensor<4>,
        cache: &LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<4> {
        self.hear(&query, cache, step, scale);
        self.policy.prefill_attention(query, cache, step, scale)
    }
}

/// The `n` candidates of least worth, ascending; of equal ones the earlier ones. All of them where there are fewer.
///
/// Candidates are places with their worth and their position.
pub(super) fn least(candidates: impl Iterator<Item = (usize, f32, usize)>, n: usize) -> Vec<usize> {
    let mut candidates = candidates.collect::<Vec<_>>();
    candidates.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
    candidates.truncate(n);
    let mut places = candidates
        .into_iter()
        .map(|(place, ..)| place)
        .collect::<Vec<_>>();
    places.sort_unstable();
    places
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use quest_burn::{cache::PagedKvCacheConfig, policy::DensePolicy};

    use super::*;

    /// Attention of two heads to ten tokens, in percent.
    static HEADS: [[u8; 10]; 2] = [
        [30, 5, 2, 10, 1, 8, 4, 15, 5, 20],
        [20, 1, 6, 2, 9, 2, 10, 5, 15, 30],
    ];

    /// Its mean, for a query that sees the first `n` of them.
    fn mean(n: usize) -> Vec<f64> {
        let sums = HEADS.map(|head| head[..n].iter().map(|&w| f64::from(w)).sum::<f64>());
        let of_token = |i: usize| {
            let shares = (0..2).map(|head| f64::from(HEADS[head][i]) / sums[head]);
            shares.sum::<f64>() / 2.0
        };
        (0..n).map(of_token).collect()
    }

    /// What tokens are worth in a layer where a query of 1 pays them that attention.
    fn heard(queries: usize) -> Vec<f32> {
        let device = Device::default();
        let config = PagedKvCacheConfig::for_tokens(1, 2, 1, 8, 1, 16);
        let mut cache = config.init(&device, DType::F32).unwrap();
        let step = cache.prefill(&[10]).unwrap();
        let keys = HEADS.as_flattened().iter().map(|&w| f32::from(w).ln());
        let keys = TensorData::new(keys.collect::<Vec<_>>(), [1, 2, 10, 1]);
        let keys = Tensor::from_data(keys, &device);
        let layer = cache.layer_mut(0);
        ops::append(layer, keys, Tensor::zeros([1, 2, 10, 1], &device), &step);
        let listening = Listening::new(&DensePolicy, 0, queries);
        let query = Tensor::ones([1, 2, 10, 1], &device);
        listening.prefill_attention(query, layer, &step, 1.0);
        listening.worth().unwrap()
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn a_token_is_worth_the_mean_attention_of_the_heads() {
        let expected = [0.25, 0.03, 0.04, 0.06, 0.05, 0.05, 0.07, 0.1, 0.1, 0.25];
        assert_close(
            &mean(10).iter().map(|&w| w as f32).collect::<Vec<_>>(),
            &expected,
        );
        assert_close(&heard(1), &expected);
    }

    #[test]
    fn several_queries_count_in_their_mean_as_far_as_each_sees() {
        let (last, before) = (mean(10), [mean(9), vec![0.0]].concat());
        let both = last.iter().zip(&before).map(|(a, b)| (a + b) / 2.0);
        assert_close(&heard(2), &both.collect::<Vec<_>>());
    }

    #[test]
    fn those_of_least_worth_leave_and_of_equal_ones_the_earlier() {
        // Exact, so that the tie is one.
        let worth = [25, 3, 4, 6, 5, 5, 7, 10, 10, 25].map(|w| w as f32);
        let candidates = || (0..9).map(|place| (place, worth[place], place));
        // 1 and 2, and of 4 and 5, which are worth .05 each, the earlier one.
        assert_eq!(least(candidates(), 3), [1, 2, 4]);
        assert_eq!(least(candidates(), 0), [0; 0]);
        assert_eq!(least(candidates(), 20), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn earlier_is_said_by_positions_and_not_by_places() {
        let positions = [7, 3, 5];
        let candidates = positions.iter().enumerate();
        let candidates = candidates.map(|(place, &position)| (place, 0.5, position));
        assert_eq!(least(candidates, 2), [1, 2]);
    }
}
