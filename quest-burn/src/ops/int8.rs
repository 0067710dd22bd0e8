use burn::tensor::Tensor;

use super::reference;
use crate::{cache::Int8Digests, digest::DigestKind};

/// Packs every digest of a pool, `[n_pages, n_kv_heads, rows, channels]`.
pub(crate) fn quantized_pool(kind: DigestKind, digests: Tensor<4>, head_dim: usize) -> Int8Digests {
    #[cfg(feature = "cube")]
    if crate::kernels::supports(&digests.device(), digests.dtype(), head_dim) {
        return super::kernel::quantized_pool(kind, digests, head_dim);
    }
    #[cfg(feature = "flex")]
    if crate::simd::packs(&digests) {
        return crate::simd::quantized_pool(kind, digests, head_dim);
    }
    let (words, scales) = reference::quantized(kind, digests, head_dim);
    Int8Digests { words, scales }
}
