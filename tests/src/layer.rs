//! One attention layer with random weights, and sequences that go through its cache.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor},
};
use quest_burn::{
    attention::{QuestAttention, QuestAttentionConfig},
    cache::PagedKvCacheConfig,
    digest::DigestKind,
    policy::PagePolicy,
};
use rand::rngs::StdRng;

use crate::{
    arrays::{poison, random},
    poison::poisoned_cache,
};

/// A layer whose attention is peaky, so that a wrong page or token shows.
pub fn random_layer(
    config: &QuestAttentionConfig,
    device: &Device,
    rng: &mut StdRng,
) -> QuestAttention {
    config.init(device).map(&mut Randomize(rng))
}

/// Gives every parameter new values, which depend on the generator only.
#[derive(Debug)]
pub struct Randomize<'a>(pub &'a mut StdRng);

impl ModuleMapper for Randomize<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let shape = tensor.dims();
            let values = random(shape, &tensor.device(), self.0);
            let values = match D {
                1 => values * 0.25 + 1.0,
                _ => values * (1.5 / (shape[0] as f32).sqrt()),
            };
            values.set_require_grad(tensor.is_require_grad())
        })
    }
}

/// How sequences go through a layer with a cache.
#[derive(Clone, Debug)]
pub struct Passage<'a> {
    /// The layer.
    pub layer: &'a QuestAttention,
    /// The pages that decoding reads.
    pub policy: &'a dyn PagePolicy,
    /// Tokens per page.
    pub page_size: usize,
    /// Tokens of a prompt that are prefilled at a time.
    pub chunk: usize,
}

impl Passage<'_> {
    /// Outputs `[tokens, d_model]` of each sequence of `hidden` (`[tokens, d_model]` each), the
    /// first `prompts[i]` tokens of which are prefilled and the others decoded.
    ///
    /// The cache, and the input of a sequence that gains fewer tokens than another, is NaN before.
    ///
    /// # Panics
    ///
    /// When the cache refuses a step.
    pub fn run(&self, hidden: &[Tensor<2>], prompts: &[usize]) -> Vec<Tensor<2>> {
        let lengths = hidden.iter().map(|h| h.dims()[0]).collect::<Vec<_>>();
        let device = hidden[0].device();
        let (n_kv_heads, head_dim) = (self.layer.n_kv_heads, self.layer.head_dim);
        let n_pages = lengths
            .iter()
            .map(|n| n.div_ceil(self.page_size))
            .sum::<usize>();
        let config = PagedKvCacheConfig::new(1, n_kv_heads, head_dim, n_pages)
            .with_page_size(self.page_size)
            .with_batch(hidden.len())
            .with_digest(DigestKind::MinMax);
        let mut cache = poisoned_cache(&config, &device);
        let mut outputs = vec![Vec::new(); hidden.len()];
        while cache.lengths() != lengths {
            let new_tokens = |until: &[usize], most: usize| {
                let left = until.iter().zip(cache.lengths());
                left.map(|(until, now)| until.saturating_sub(*now).min(most))
                    .collect::<Vec<_>>()
            };
            let prompt = new_tokens(prompts, self.chunk);
            let step = if prompt.iter().any(|&n| n > 0) {
                cache.prefill(&prompt)
            } else {
                let active = new_tokens(&lengths, 1)
                    .iter()
                    .map(|&n| n == 1)
                    .collect::<Vec<_>>();
                cache.decode_active(&active)
            };
            let step = step.expect("the pool holds every token");
            let input = hidden.iter().enumerate().map(|(sequence, hidden)| {
                let start = step.starts()[sequence];
                let new = step.new_tokens(sequence);
                let missing = step.max_new_tokens() - new;
                let [_, d_model] = hidden.dims();
                let mut rows = Vec::new();
                if new > 0 {
                    rows.push(hidden.clone().slice([start..start + new]));
                }
                if missing > 0 {
                    rows.push(poison([missing, d_model], &device));
                }
                Tensor::cat(rows, 0)
            });
            let input = Tensor::stack(input.collect(), 0);
            let output = self
                .layer
                .forward_cache(input, cache.layer_mut(0), &step, self.policy);
            for (sequence, outputs) in outputs.iter_mut().enumerate() {
                let new = step.new_tokens(sequence);
                if new > 0 {
                    let rows = output.clone().slice([sequence..sequence + 1, 0..new]);
                    outputs.push(rows.squeeze_dim::<2>(0));
                }
            }
        }
        outputs
            .into_iter()
            .map(|rows| Tensor::cat(rows, 0))
            .collect()
    }
}

/// Hidden states `[tokens, d_model]` for sequences of the given lengths.
pub fn random_hidden(
    lengths: &[usize],
    d_model: usize,
    device: &Device,
    rng: &mut StdRng,
) -> Vec<Tensor<2>> {
    lengths
        .iter()
        .map(|&n| random([n, d_model], device, rng))
        .collect()
}
