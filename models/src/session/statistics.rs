use core::{iter, ops::Range};

use super::Session;
use crate::{generation::Timings, lazy::LaterStages};

/// What a session takes and reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Tokens so far.
    pub tokens: usize,
    /// Pages of the [cache](Session::cache) that hold them.
    pub pages: usize,
    /// Bytes of the KV cache, and of what is kept of tokens that have left a prompt and may come back.
    pub cache_bytes: u64,
    /// Share of the tokens in the cache that a layer has computed, in the mean of the layers: 1 unless tokens of
    /// prompts [leave](quest_burn::policy::LazyPrefillConfig).
    pub share_computed: f64,
    /// Share of the tokens in the cache that a decoded token reads, in the mean of the layers; none
    /// of a policy that does not say.
    pub share_read: Option<f64>,
    /// Times of everything that was generated.
    pub timings: Timings,
}

impl Session {
    /// Layers that hold the same tokens, and the positions of these in the order of their places in the cache. One
    /// entry with all of both, unless tokens of prompts [leave](quest_burn::policy::LazyPrefillConfig).
    pub fn tokens_held(&self) -> Vec<(Range<usize>, Vec<usize>)> {
        let first = (0..self.cache.n_layers(), (0..self.cached()).collect());
        let later = self.stages.iter().flat_map(LaterStages::held);
        let later = later.map(|(layers, positions)| (layers, positions.to_vec()));
        iter::once(first).chain(later).collect()
    }

    /// What the session takes and reads now.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            tokens: self.len(),
            pages: self.cache.pages()[0].len(),
            cache_bytes: self.cache.bytes() + self.stages.as_ref().map_or(0, LaterStages::bytes),
            share_computed: self.share_computed(),
            share_read: self.share_read(),
            timings: self.timings,
        }
    }

    /// Tokens that each layer holds.
    fn held(&self) -> impl Iterator<Item = usize> {
        let first = iter::repeat_n(self.cached(), self.cache.n_layers());
        let later = self.stages.iter().flat_map(LaterStages::held);
        first.chain(later.flat_map(|(layers, held)| iter::repeat_n(held.len(), layers.len())))
    }

    fn share_computed(&self) -> f64 {
        let all = self.model.config().n_layers * self.cached().max(1);
        match self.cached() {
            0 => 1.0,
            _ => self.held().sum::<usize>() as f64 / all as f64,
        }
    }

    fn share_read(&self) -> Option<f64> {
        let page_size = self.cache.page_size();
        let windows = self.model.config().blocks.windows.as_ref();
        let layers = self.held().enumerate().map(|(layer, held)| match windows {
            Some(windows) if windows.has(layer) => Some(held.max(1).min(windows.tokens)),
            _ => self.policy.tokens_read(layer, held.max(1), page_size),
        });
        let read = layers.sum::<Option<usize>>()?;
        let all = self.model.config().n_layers * self.cached().max(1);
        Some(read as f64 / all as f64)
    }
}
