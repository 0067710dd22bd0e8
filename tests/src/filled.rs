//! A layer's cache filled with random tokens, beside the same tokens on the host.

use burn::tensor::{Device, Tensor};
use quest_burn::{
    cache::{DigestStorage, LayerCache, PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
};
use rand::{RngExt, rngs::StdRng};

use crate::{
    arrays::{drawn, rows},
    catalogue::AttentionShape,
    poison::poisoned_cache,
};

/// One layer after a decode step that brought every sequence to its length.
#[derive(Debug)]
pub struct Filled {
    /// The cache, of one layer. What no token has filled is NaN or was cleared.
    pub cache: PagedKvCache,
    /// The decode step.
    pub step: Step,
    /// Keys of every token, `[sequence][kv head][token]`.
    pub keys: Vec<Vec<Vec<Vec<f64>>>>,
    /// Values of every token, `[sequence][kv head][token]`.
    pub values: Vec<Vec<Vec<Vec<f64>>>>,
}

impl Filled {
    /// Fills a cache in chunks that end inside pages, the sequences in turn, so that the pages of
    /// a sequence are scattered over the pool.
    ///
    /// # Panics
    ///
    /// When the cache refuses a step.
    pub fn new(
        shape: &AttentionShape,
        digest: DigestKind,
        device: &Device,
        rng: &mut StdRng,
    ) -> Self {
        let mut draw = || rng.random_range(-2.0f32..2.0);
        Self::drawn(shape, digest, DigestStorage::Full, device, &mut draw)
    }

    /// The same with digests that are stored in some way and numbers that are drawn one by one.
    ///
    /// # Panics
    ///
    /// When the cache refuses the head dim or a step.
    pub fn drawn(
        shape: &AttentionShape,
        digest: DigestKind,
        storage: DigestStorage,
        device: &Device,
        draw: &mut dyn FnMut() -> f32,
    ) -> Self {
        let stored =
            |config: PagedKvCacheConfig| config.with_digest(digest).with_digest_storage(storage);
        Self::configured(shape, stored, device, draw)
    }

    /// The same in a cache whose configuration is changed before it is made.
    ///
    /// # Panics
    ///
    /// When the cache refuses the head dim or a step.
    pub fn configured(
        shape: &AttentionShape,
        configure: impl FnOnce(PagedKvCacheConfig) -> PagedKvCacheConfig,
        device: &Device,
        draw: &mut dyn FnMut() -> f32,
    ) -> Self {
        let batch = shape.lengths.len();
        let n_pages = shape
            .lengths
            .iter()
            .map(|n| n.div_ceil(shape.page_size))
            .sum::<usize>();
        let config = PagedKvCacheConfig::new(1, shape.n_kv_heads, shape.head_dim, n_pages)
            .with_page_size(shape.page_size)
            .with_batch(batch);
        let config = configure(config);
        let mut cache = poisoned_cache(&config, device);
        let mut keys = vec![vec![Vec::new(); shape.n_kv_heads]; batch];
        let mut values = keys.clone();
        let mut fill = |cache: &mut PagedKvCache, step: &Step| {
            let [new_keys, new_values] = [&mut keys, &mut values].map(|tokens| {
                let tensor = drawn(
                    [
                        batch,
                        shape.n_kv_heads,
                        step.max_new_tokens(),
                        shape.head_dim,
                    ],
                    device,
                    draw,
                );
                remember(tokens, &tensor, step);
                tensor
            });
            ops::append(cache.layer_mut(0), new_keys, new_values, step);
        };
        // Everything but the last token, the sequences in turn.
        loop {
            let mut is_done = true;
            for (sequence, length) in shape.lengths.iter().enumerate() {
                let left = length - 1 - cache.lengths()[sequence];
                if left > 0 {
                    let mut new_tokens = vec![0; batch];
                    new_tokens[sequence] = left.min(shape.page_size + 3);
                    let step = cache
                        .prefill(&new_tokens)
                        .expect("the pool holds every token");
                    fill(&mut cache, &step);
                    is_done = false;
                }
            }
            if is_done {
                break;
            }
        }
        let step = cache.decode().expect("the pool holds every token");
        fill(&mut cache, &step);
        Self {
            cache,
            step,
            keys,
            values,
        }
    }

    /// The pages.
    pub fn layer(&self) -> &LayerCache {
        self.cache.layer(0)
    }
}

/// Adds the rows that a step writes to `[sequence][kv head][token]`.
pub(crate) fn remember(tokens: &mut [Vec<Vec<Vec<f64>>>], tensor: &Tensor<4>, step: &Step) {
    let mut heads = rows(tensor)
        .chunks(step.max_new_tokens())
        .map(<[_]>::to_vec)
        .collect::<Vec<_>>()
        .into_iter();
    for (sequence, of_sequence) in tokens.iter_mut().enumerate() {
        for (head, new) in of_sequence.iter_mut().zip(&mut heads) {
            head.extend_from_slice(&new[..step.new_tokens(sequence)]);
        }
    }
}
