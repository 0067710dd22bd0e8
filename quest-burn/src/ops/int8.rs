use super::reference;
use crate::cache::{LayerCache, Step};

/// Packs the digests of the pages that a step writes, where the cache has them in 8 bits too.
pub(super) fn quantize_digests(cache: &mut LayerCache, step: &Step) {
    if cache.int8_digests.is_none() {
        return;
    }
    #[cfg(feature = "cube")]
    if super::kernel::supports(cache) {
        return super::kernel::quantize_digests(cache, step);
    }
    reference::quantize_digests(cache, step);
}
