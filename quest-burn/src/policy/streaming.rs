use burn::{
    config::Config,
    tensor::{Int, Tensor},
};

use super::{KeyShift, PagePolicy, Pages, PolicyConfig, PolicyError, TokenLists};
use crate::{
    cache::{LayerCache, Step},
    pages::one_list,
    rope::RopeConfig,
};

/// How the tokens of a [`StreamingPolicy`] are numbered.
#[derive(Config, Debug, PartialEq)]
pub enum WindowPositions {
    /// By their place in the window, without the gap behind the first tokens, as in the released
    /// code. The cache holds keys after RoPE, so the first keys are rotated on by the width of the
    /// gap at every step; what lies behind the gap is as far from the query as before.
    InWindow(RopeConfig),
    /// By their place in the text: for models without RoPE, or to measure what the numbering does.
    InText,
}

/// Settings of a [`StreamingPolicy`].
#[derive(Config, Debug, PartialEq)]
pub struct StreamingConfig {
    /// How tokens are numbered.
    pub positions: WindowPositions,
    /// Tokens that a query attends to, the newest included.
    #[config(default = 2048)]
    pub token_budget: usize,
    /// First tokens of the text, the attention sinks, that are always kept; part of the budget.
    #[config(default = 4)]
    pub sink_tokens: usize,
    /// Leading layers that read every page.
    #[config(default = 2)]
    pub dense_layers: usize,
}

impl StreamingConfig {
    /// The policy.
    ///
    /// # Errors
    ///
    /// When the budget holds no token besides the first ones.
    pub fn init(&self) -> Result<StreamingPolicy, PolicyError> {
        if self.token_budget <= self.sink_tokens {
            return Err(PolicyError::TokenBudget {
                policy: "streaming",
                least: self.sink_tokens + 1,
                why: "the first tokens and the newest",
                found: self.token_budget,
            });
        }
        Ok(StreamingPolicy {
            config: self.clone(),
        })
    }
}

/// Reads the first tokens and the most recent ones
/// ([StreamingLLM](https://arxiv.org/abs/2309.17453)).
///
/// All heads of all layers but the dense ones read the same tokens. The budget holds from the first
/// decoded token on, whatever the length of the prompt: what lies in the gap is never read.
#[derive(Clone, Debug)]
pub struct StreamingPolicy {
    config: StreamingConfig,
}

impl TryFrom<&PolicyConfig> for StreamingPolicy {
    type Error = PolicyError;

    fn try_from(config: &PolicyConfig) -> Result<Self, PolicyError> {
        let rope = config.rope.clone().ok_or(PolicyError::NoRope)?;
        StreamingConfig::new(WindowPositions::InWindow(rope))
            .with_token_budget(config.quest.token_budget)
            .with_dense_layers(config.quest.dense_layers)
            .init()
    }
}

impl PagePolicy for StreamingPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let config = &self.config;
        let kept = |&length: &usize| length.min(config.token_budget);
        if cache.index() < config.dense_layers || step.lengths().iter().all(|n| kept(n) == *n) {
            return Pages::All;
        }
        let [_, n_kv_heads, _, head_dim] = cache.dims();
        let device = query.device();
        let window = |length: &usize| -> Tensor<2, Int> {
            let (length, kept) = (*length, kept(length));
            let sinks = config.sink_tokens.min(kept);
            let recent = length + sinks - kept..length;
            let positions = (0..sinks).chain(recent).map(|p| p as i32);
            one_list(positions, n_kv_heads, &device)
        };
        let shift = match &config.positions {
            WindowPositions::InText => None,
            WindowPositions::InWindow(rope) => Some(KeyShift {
                rope: rope.init(head_dim, &device),
                first: config.sink_tokens,
                by: step.lengths().iter().map(|n| n - kept(n)).collect(),
            }),
        };
        Pages::Tokens(TokenLists {
            positions: step.lengths().iter().map(window).collect(),
            shift,
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData, Tolerance};

    use super::*;
    use crate::{
        cache::{PagedKvCache, PagedKvCacheConfig},
        ops,
        policy::{
            Read,
            fixture::{Weighted, assert_close, observed},
        },
    };

    fn streaming(positions: WindowPositions, token_budget: usize) -> StreamingPolicy {
        StreamingConfig::new(positions)
            .with_token_budget(token_budget)
            .with_dense_layers(0)
            .init()
            .unwrap()
    }

    #[test]
    fn the_first_four_and_the_most_recent_tokens_are_read() {
        let mut layer = Weighted::new(2).prompt(&[&[1., 1.][..]; 20]);
        let policy = observed(streaming(WindowPositions::InText, 6));
        for newest in 20..23 {
            let (read, output) = layer.decode(&policy, &[1., 1.], &[1.; 4]);
            let window = vec![0, 1, 2, 3, newest - 1, newest];
            assert_eq!(read, Read::Tokens(vec![window.clone(); 2]));
            assert_close(&output, &[window.iter().sum::<usize>() as f32 / 6.; 4]);
        }
    }

    #[test]
    fn a_budget_that_covers_the_text_reads_everything() {
        let mut layer = Weighted::new(1).prompt(&[&[1.][..]; 4]);
        let policy = observed(streaming(WindowPositions::InText, 5));
        assert_eq!(layer.decode(&policy, &[1.], &[1.]).0, Read::All);
        let window = Read::Tokens(vec![vec![0, 1, 2, 3, 5]]);
        assert_eq!(layer.decode(&policy, &[1.], &[1.]).0, window);
    }

    /// A cache with the given tokens, and the step that decodes the last of them.
    fn cache_of(keys: &Tensor<4>, values: &Tensor<4>) -> (PagedKvCache, Step) {
        let [_, heads, n, d] = keys.dims();
        let config = PagedKvCacheConfig::for_tokens(1, heads, d, 8, 1, n);
        let mut cache = config.init(&keys.device(), DType::F32).unwrap();
        let rows = |t: &Tensor<4>, range| t.clone().slice_dim(2, range);
        if n > 1 {
            let step = cache.prefill(&[n - 1]).unwrap();
            let (keys, values) = (rows(keys, 0..n - 1), rows(values, 0..n - 1));
            ops::append(cache.layer_mut(0), keys, values, &step);
        }
        let step = cache.decode().unwrap();
        let (keys, values) = (rows(keys, n - 1..n), rows(values, n - 1..n));
        ops::append(cache.layer_mut(0), keys, values, &step);
        (cache, step)
    }

    #[test]
    fn positions_are_those_in_the_window() {
        let (n, budget, sinks) = (200, 12, 4);
        let device = Device::default();
        // Irregular, and the same in every run.
        let varied = |shape: [usize; 4], seed: f32| {
            let n = shape.iter().product::<usize>();
            let values = (0..n).map(|i| (seed * (i * i) as f32 + i as f32).sin());
            let values = TensorData::new(values.collect::<Vec<_>>(), shape);
            Tensor::<4>::from_data(values, &device)
        };
        let keys = varied([1, 2, n, 8], 0.3);
        let values = varied([1, 2, n, 8], 0.7);
        let query = varied([1, 4, 1, 8], 1.1);
        // YaRN scales what it rotates, which must happen once only.
        let rope = RopeConfig::new().with_scaling(crate::rope::RopeScaling::Yarn {
            factor: 4.0,
            original_max_positions: 64,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        });
        let rotate = |x: &Tensor<4>, first: usize| {
            let n = x.dims()[2];
            let positions = Tensor::<1, Int>::arange(first as i64..(first + n) as i64, &device);
            rope.init(8, &device)
                .forward(x.clone(), positions.reshape([1, n]))
        };
        let attend =
            |keys: &Tensor<4>, values: &Tensor<4>, query: Tensor<4>, policy: &dyn PagePolicy| {
                let (mut cache, step) = cache_of(keys, values);
                let query = query.squeeze_dim::<3>(2);
                policy.attention(query, cache.layer_mut(0), &step, 0.5)
            };
        let policy = streaming(WindowPositions::InWindow(rope.clone()), budget);
        let found = attend(&rotate(&keys, 0), &values, rotate(&query, n - 1), &policy);

        let window = |t: &Tensor<4>| {
            let (first, recent) = (0..sinks, n - (budget - sinks)..n);
            let rows = |range| t.clone().slice_dim(2, range);
            Tensor::cat(vec![rows(first), rows(recent)], 2)
        };
        let keys_of_window = rotate(&window(&keys), 0);
        let expected = attend(
            &keys_of_window,
            &window(&values),
            rotate(&query, budget - 1),
            &crate::policy::DensePolicy,
        );
        let in_text = streaming(WindowPositions::InText, budget);
        let in_text = attend(&rotate(&keys, 0), &values, rotate(&query, n - 1), &in_text);
        let (found, expected) = (found.into_data(), expected.into_data());
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
        let difference = (in_text - Tensor::from_data(expected, &device)).abs().max();
        assert!(
            difference.into_scalar::<f32>() > 0.01,
            "positions in the text must make a difference for this test to mean anything"
        );
    }

    #[test]
    fn a_budget_without_room_for_the_newest_token_is_refused() {
        let config = StreamingConfig::new(WindowPositions::InText).with_token_budget(4);
        assert_eq!(
            config.init().unwrap_err().to_string(),
            "token budget of streaming: expected at least 5 (the first tokens and the newest), \
             found 4"
        );
        let config = PolicyConfig::new(crate::policy::PolicyKind::Streaming);
        assert_eq!(config.init(16).unwrap_err(), PolicyError::NoRope);
    }
}
