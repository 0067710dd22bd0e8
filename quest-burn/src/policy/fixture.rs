//! A layer whose attention can be computed by hand.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{Observation, ObservedPolicy, PagePolicy, Read};
use crate::{
    cache::{PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
};

/// Heads of one channel, pages of 8 tokens, one sequence. With a query of 1, a token's attention is
/// in proportion to its weight; its value is its position.
pub(super) struct Weighted {
    pub cache: PagedKvCache,
    n_kv_heads: usize,
}

impl Weighted {
    pub(super) fn new(n_kv_heads: usize) -> Self {
        let config = PagedKvCacheConfig::for_tokens(1, n_kv_heads, 1, 8, 1, 64)
            .with_digest(DigestKind::MinMax);
        Self {
            cache: config.init(&Device::default(), DType::F32).unwrap(),
            n_kv_heads,
        }
    }

    /// Prompt tokens of these weights, `[token][kv head]`.
    pub(super) fn prompt(mut self, weights: &[&[f32]]) -> Self {
        let step = self.cache.prefill(&[weights.len()]).unwrap();
        self.append(weights, &step);
        self
    }

    /// One more token, with a weight for each KV head and a query for each query head. Says what
    /// was read, and the output of each head.
    pub(super) fn decode(
        &mut self,
        policy: &ObservedPolicy,
        weights: &[f32],
        query: &[f32],
    ) -> (Read, Vec<f32>) {
        let (observation, output) = self.observe(policy, weights, query);
        (observation.read, output)
    }

    /// As [`decode`](Self::decode), with all that was observed.
    pub(super) fn observe(
        &mut self,
        policy: &ObservedPolicy,
        weights: &[f32],
        query: &[f32],
    ) -> (Observation, Vec<f32>) {
        let step = self.cache.decode().unwrap();
        self.append(&[weights], &step);
        let query = TensorData::new(query.to_vec(), [1, query.len(), 1]);
        let query = Tensor::from_data(query, &Device::default());
        let output = policy.attention(query, self.cache.layer_mut(0), &step, 1.0);
        let mut observations = policy.observations().take();
        assert_eq!(observations.len(), 1);
        (
            observations.remove(0),
            output.into_data().try_to_vec().unwrap(),
        )
    }

    fn append(&mut self, weights: &[&[f32]], step: &Step) {
        let n = weights.len();
        let start = step.starts()[0];
        let heads = 0..self.n_kv_heads;
        let keys = heads
            .clone()
            .flat_map(|h| weights.iter().map(move |w| w[h].ln()));
        let values = heads.flat_map(|_| (start..start + n).map(|i| i as f32));
        let rows = |rows: Vec<f32>| {
            let rows = TensorData::new(rows, [1, self.n_kv_heads, n, 1]);
            Tensor::from_data(rows, &Device::default())
        };
        let (keys, values) = (rows(keys.collect()), rows(values.collect()));
        ops::append(self.cache.layer_mut(0), keys, values, step);
    }
}

/// Watches a policy.
pub(super) fn observed(policy: impl PagePolicy + 'static) -> ObservedPolicy {
    ObservedPolicy::new(Box::new(policy))
}

/// Asserts that floats are close.
pub(super) fn assert_close(found: &[f32], expected: &[f32]) {
    let is_close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
    let all = found.len() == expected.len() && found.iter().zip(expected).all(is_close);
    assert!(all, "expected {expected:?}, found {found:?}");
}
