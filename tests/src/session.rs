//! Layers of a cache into which random tokens are decoded, one query after the other.

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor};
use quest_burn::{
    cache::{PagedKvCache, PagedKvCacheConfig, Step},
    ops,
    policy::{Observation, ObservedPolicy, PagePolicy, PolicyConfig, Read},
};
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    arrays::{random, rows},
    filled::remember,
    poison::poisoned_cache,
};

/// Sizes of a [`Session`].
#[derive(Clone, Debug)]
pub struct SessionShape {
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// KV heads.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// Tokens of the prompt of each sequence.
    pub prompts: Vec<usize>,
    /// Tokens that fit behind each prompt.
    pub room: usize,
}

/// A cache that holds random prompts, and what it holds on the host too.
#[derive(Debug)]
pub struct Session {
    /// Its sizes.
    pub shape: SessionShape,
    /// The cache. What no token has filled is NaN.
    pub cache: PagedKvCache,
    /// Keys of the first layer, `[sequence][kv head][token]`.
    pub keys: Vec<Vec<Vec<Vec<f64>>>>,
    /// Values of the first layer, `[sequence][kv head][token]`.
    pub values: Vec<Vec<Vec<Vec<f64>>>>,
    rng: StdRng,
    device: Device,
}

/// One decode step, its tokens in the cache.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The step.
    pub step: Step,
    /// A query for each layer, `[batch, n_heads, head_dim]`.
    pub queries: Vec<Tensor<3>>,
}

impl Session {
    /// A cache that holds the prompts.
    ///
    /// # Panics
    ///
    /// When the sizes are not valid.
    pub fn new(shape: &SessionShape, device: &Device, seed: u64) -> Self {
        let batch = shape.prompts.len();
        let pages = |prompt: &usize| (prompt + shape.room).div_ceil(shape.page_size);
        let n_pages = shape.prompts.iter().map(pages).sum();
        let config =
            PagedKvCacheConfig::new(shape.n_layers, shape.n_kv_heads, shape.head_dim, n_pages)
                .with_page_size(shape.page_size)
                .with_batch(batch);
        let empty = vec![vec![Vec::new(); shape.n_kv_heads]; batch];
        let mut session = Self {
            shape: shape.clone(),
            cache: poisoned_cache(&config, device),
            keys: empty.clone(),
            values: empty,
            rng: StdRng::seed_from_u64(seed),
            device: device.clone(),
        };
        // In pieces and in turn, so that pages are scattered over the pool.
        for piece in 0..2 {
            for sequence in 0..batch {
                let mut new = vec![0; batch];
                let half = shape.prompts[sequence] / 2;
                new[sequence] = match piece {
                    0 => half,
                    _ => shape.prompts[sequence] - half,
                };
                if new[sequence] > 0 {
                    session.prefill(&new);
                }
            }
        }
        session
    }

    /// Adds prompt tokens to each sequence.
    ///
    /// # Panics
    ///
    /// When there is no room left.
    pub fn prefill(&mut self, new_tokens: &[usize]) {
        let step = self.cache.prefill(new_tokens).expect("there is room");
        self.append(&step);
    }

    /// Decodes one token of each sequence that is active.
    ///
    /// # Panics
    ///
    /// When there is no room left.
    pub fn decode(&mut self, active: &[bool]) -> Decoded {
        let step = self.cache.decode_active(active).expect("there is room");
        self.append(&step);
        let shape = [step.batch(), self.shape.n_heads, self.shape.head_dim];
        let query = |_| random(shape, &self.device, &mut self.rng);
        Decoded {
            queries: (0..self.shape.n_layers).map(query).collect(),
            step,
        }
    }

    /// Attention of all layers through a policy, and what was read.
    pub fn attend(
        &mut self,
        decoded: &Decoded,
        policy: &ObservedPolicy,
    ) -> (Vec<Tensor<3>>, Vec<Observation>) {
        let outputs = self.attend_unobserved(decoded, policy);
        (outputs, policy.observations().take())
    }

    /// Attention of all layers through a policy.
    pub fn attend_unobserved(
        &mut self,
        decoded: &Decoded,
        policy: &dyn PagePolicy,
    ) -> Vec<Tensor<3>> {
        let scale = self.scale();
        let attend = |(index, query): (usize, &Tensor<3>)| {
            let layer = self.cache.layer_mut(index);
            policy.attention(query.clone(), layer, &decoded.step, scale)
        };
        decoded.queries.iter().enumerate().map(attend).collect()
    }

    /// What products of query and keys are multiplied by.
    pub fn scale(&self) -> f64 {
        1.0 / (self.shape.head_dim as f64).sqrt()
    }

    /// Forgets the tokens of a sequence from `length` on.
    ///
    /// # Panics
    ///
    /// When it is shorter.
    pub fn truncate(&mut self, sequence: usize, length: usize) {
        self.cache.truncate(sequence, length).expect("it is longer");
        for tokens in [&mut self.keys, &mut self.values] {
            tokens[sequence].iter_mut().for_each(|t| t.truncate(length));
        }
    }

    fn append(&mut self, step: &Step) {
        let shape = [
            step.batch(),
            self.shape.n_kv_heads,
            step.max_new_tokens(),
            self.shape.head_dim,
        ];
        for index in 0..self.shape.n_layers {
            let [keys, values] = [(); 2].map(|()| random(shape, &self.device, &mut self.rng));
            if index == 0 {
                remember(&mut self.keys, &keys, step);
                remember(&mut self.values, &values, step);
            }
            ops::append(self.cache.layer_mut(index), keys, values, step);
        }
    }
}

/// Query heads of one sequence.
pub fn heads_of(query: &Tensor<3>, sequence: usize) -> Vec<Vec<f64>> {
    rows(&query.clone().slice([sequence..sequence + 1]))
}

/// A policy for pages of `page_size` that is watched.
///
/// # Panics
///
/// When it cannot be made as configured.
pub fn observed(config: &PolicyConfig, page_size: usize) -> ObservedPolicy {
    let policy = config
        .init(page_size)
        .unwrap_or_else(|error| panic!("{error}"));
    ObservedPolicy::new(policy)
}

/// The tokens that the query heads of a KV head read.
pub fn tokens_read(
    observation: &Observation,
    kv_head: usize,
    n_kv_heads: usize,
) -> BTreeSet<usize> {
    let of_head = |lists: &[Vec<usize>]| {
        let per_head = lists.len() / n_kv_heads;
        let lists = &lists[kv_head * per_head..][..per_head];
        lists.concat().into_iter().collect::<BTreeSet<_>>()
    };
    match &observation.read {
        Read::All => (0..observation.length).collect(),
        Read::Tokens(lists) => of_head(lists),
        Read::Pages(lists) => of_head(lists)
            .into_iter()
            .flat_map(|page| page * observation.page_size..(page + 1) * observation.page_size)
            .filter(|&token| token < observation.length)
            .collect(),
    }
}
