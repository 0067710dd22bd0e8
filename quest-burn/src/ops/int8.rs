use super::{Body, reference};
use crate::cache::{CacheError, Digests, Int8Digests, LayerCache, check_head_dim};

impl LayerCache {
    /// Keeps the digests in 8 bits as well, to score pages by them; those that are there are packed
    /// now.
    ///
    /// # Errors
    ///
    /// When the head dim is not a multiple of 16.
    pub fn with_int8_digests(mut self) -> Result<Self, CacheError> {
        let head_dim = self.pool.head_dim();
        check_head_dim(head_dim)?;
        self.pool.digests = packed(self.pool.digests, head_dim);
        self.renew_pool_id();
        Ok(self)
    }
}

/// Packs every digest of a pool.
fn packed(digests: Digests, head_dim: usize) -> Digests {
    match Body::of(&digests.rows.device(), digests.rows.dtype(), head_dim) {
        #[cfg(feature = "cube")]
        Body::Kernels => super::kernel::packed(digests, head_dim),
        #[cfg(feature = "flex")]
        Body::Native => crate::simd::packed(digests, head_dim),
        Body::Reference => {
            let (words, scales) =
                reference::quantized(digests.kind, digests.rows.clone(), head_dim);
            Digests {
                int8: Some(Int8Digests { words, scales }),
                ..digests
            }
        }
    }
}
