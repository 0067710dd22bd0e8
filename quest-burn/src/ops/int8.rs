use burn::tensor::Tensor;

use super::reference;
use crate::cache::{Int8Digests, LayerCache, Step};

/// Packs every digest of a pool, `[n_pages, n_kv_heads, 2, head_dim]`.
pub(crate) fn quantized_pool(digests: Tensor<4>) -> Int8Digests {
    #[cfg(feature = "cube")]
    {
        let [_, _, _, head_dim] = digests.dims();
        if crate::kernels::supports(&digests.device(), digests.dtype(), head_dim) {
            return super::kernel::quantized_pool(digests);
        }
    }
    #[cfg(feature = "flex")]
    if crate::simd::packs(&digests) {
        return crate::simd::quantized_pool(digests);
    }
    let (words, scales) = reference::quantized(digests);
    Int8Digests { words, scales }
}

/// Packs the digests of the pages that a step writes, where the cache has them in 8 bits too.
pub(super) fn quantize_digests(cache: &mut LayerCache, step: &Step) {
    if cache.int8_digests.is_none() {
        return;
    }
    #[cfg(feature = "cube")]
    if super::kernel::supports(cache) {
        return super::kernel::quantize_digests(cache, step);
    }
    #[cfg(feature = "flex")]
    if crate::simd::supports(cache, &cache.keys.device()) {
        return crate::simd::quantize_digests(cache, step);
    }
    reference::quantize_digests(cache, step);
}
