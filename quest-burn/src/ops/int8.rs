use burn::tensor::Tensor;

use super::reference;
use crate::cache::Int8Digests;

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
