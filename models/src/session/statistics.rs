use super::Session;
use crate::generation::Timings;

/// What a session takes and reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Tokens so far.
    pub tokens: usize,
    /// Pages of the KV cache that hold them.
    pub pages: usize,
    /// Bytes of the KV cache.
    pub cache_bytes: u64,
    /// Share of the tokens in the cache that a decoded token reads, in the mean of the layers; none
    /// of a policy that does not say.
    pub share_read: Option<f64>,
    /// Times of everything that was generated.
    pub timings: Timings,
}

impl Session {
    /// What the session takes and reads now.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            tokens: self.len(),
            pages: self.cache.pages()[0].len(),
            cache_bytes: self.cache.bytes(),
            share_read: self.share_read(),
            timings: self.timings,
        }
    }

    fn share_read(&self) -> Option<f64> {
        let (length, page_size) = (self.cached().max(1), self.cache.page_size());
        let n_layers = self.cache.n_layers();
        let windows = self.model.config().blocks.windows.as_ref();
        let layers = (0..n_layers).map(|layer| match windows {
            Some(windows) if windows.has(layer) => Some(length.min(windows.tokens)),
            _ => self.policy.tokens_read(layer, length, page_size),
        });
        let read = layers.sum::<Option<usize>>()?;
        Some(read as f64 / (n_layers * length) as f64)
    }
}
