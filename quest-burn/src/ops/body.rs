use burn::tensor::{DType, Device};

use crate::cache::LayerCache;

/// Which of an operation's bodies runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// CubeCL kernels.
    #[cfg(feature = "cube")]
    Kernels,
    /// Native code on the Flex backend's own memory.
    #[cfg(feature = "flex")]
    Native,
    /// Burn tensor operations.
    Reference,
}

impl Body {
    /// The body for keys of this dtype and head dim on a device.
    ///
    /// An autodiff device gets the reference, as only tensor operations have a backward pass.
    pub(crate) fn of(device: &Device, dtype: DType, head_dim: usize) -> Self {
        #[cfg(feature = "cube")]
        if crate::kernels::supports(device, dtype, head_dim) {
            return Self::Kernels;
        }
        #[cfg(feature = "flex")]
        if crate::simd::supports(device, dtype) {
            return Self::Native;
        }
        let _ = (device, dtype, head_dim);
        Self::Reference
    }

    /// The body for a layer's cache and an input on `device`.
    pub(crate) fn of_layer(cache: &LayerCache, device: &Device) -> Self {
        match Self::of_digests(cache, device) {
            // Some devices bind too few buffers at a time for scales besides.
            #[cfg(feature = "cube")]
            Self::Kernels
                if !crate::kernels::takes_rows(&cache.device(), cache.key_rows().storage()) =>
            {
                Self::Reference
            }
            body => body,
        }
    }

    /// The same for an operation that reads the digests only.
    #[cfg_attr(not(feature = "flex"), allow(unused_variables))]
    pub(crate) fn of_digests(cache: &LayerCache, device: &Device) -> Self {
        match Self::of(&cache.device(), cache.pool.dtype(), cache.pool.head_dim()) {
            // Native code reads the cache's memory as it lies, and Flex's own tensors only.
            #[cfg(feature = "flex")]
            Self::Native
                if !crate::simd::reads(cache)
                    || Self::of(device, cache.pool.dtype(), 1) != Self::Native =>
            {
                Self::Reference
            }
            body => body,
        }
    }

    /// The same for attention: no kernel caps scores.
    pub(crate) fn of_attention(cache: &LayerCache, device: &Device) -> Self {
        match cache.soft_cap() {
            Some(_) => Self::Reference,
            None => Self::of_layer(cache, device),
        }
    }

    /// The same, unless it is kernels and the device cannot run one that the operation needs.
    #[cfg(feature = "cube")]
    pub(crate) fn where_kernels(self, run: impl FnOnce() -> bool) -> Self {
        match self {
            Self::Kernels if !run() => Self::Reference,
            body => body,
        }
    }
}
