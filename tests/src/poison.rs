//! Caches that betray whoever reads what was never written.

use burn::tensor::{DType, Device};
use quest_burn::cache::{DigestStorage, KvStorage, LayerCache, PagedKvCache, PagedKvCacheConfig};

use crate::arrays::poison;

/// An empty cache in f32 whose keys, values and digests are NaN.
///
/// # Panics
///
/// When the sizes are not valid.
pub fn poisoned_cache(config: &PagedKvCacheConfig, device: &Device) -> PagedKvCache {
    let mut cache = config
        .init(device, DType::F32)
        .unwrap_or_else(|error| panic!("{error}"));
    for index in 0..cache.n_layers() {
        let layer = cache.layer_mut(index);
        let poisoned = LayerCache::from_parts(
            index,
            poison(layer.dims(), device),
            poison(layer.dims(), device),
            config.digest,
            poison(layer.digests().dims(), device),
        );
        let poisoned = match config.kv_storage {
            KvStorage::Full => poisoned,
            KvStorage::Int8 => poisoned.with_int8_rows().expect("the head dim was checked"),
        };
        *layer = match config.digest_storage {
            DigestStorage::Full => poisoned,
            DigestStorage::Int8 => poisoned
                .with_int8_digests()
                .expect("the head dim was checked"),
        };
    }
    cache
}
