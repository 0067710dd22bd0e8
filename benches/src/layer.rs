//! KV caches whose content is random, made on the device.

use burn::tensor::{DType, Device, Distribution, Tensor};
use quest_burn::{
    cache::{DigestStorage, KvStorage, LayerCache, PagedKvCache, PagedKvCacheConfig},
    digest::DigestKind,
};

use crate::BenchError;

/// A tensor of normally distributed values that lies in memory without gaps: CUDA pitches the rows
/// of tensors that are made with several axes, and the kernels would copy those.
pub(crate) fn normal<const D: usize>(
    shape: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    let n = shape.iter().product::<usize>();
    let normal = Distribution::Normal(0.0, 1.0);
    Tensor::<1>::random([n], normal, (device, dtype)).reshape(shape)
}

/// A cache every sequence of which holds `tokens` random tokens.
pub(crate) fn filled_cache(
    config: &PagedKvCacheConfig,
    tokens: usize,
    device: &Device,
    dtype: DType,
) -> Result<PagedKvCache, BenchError> {
    let mut cache = config.init(device, dtype)?;
    for index in 0..cache.n_layers() {
        let layer = cache.layer_mut(index);
        let random = random_layer(index, layer.dims(), config.digest, device, dtype);
        *layer = with_storage(random, config.digest_storage, config.kv_storage)?;
        // Each layer is made before the next is begun, so that what it needs besides is reused.
        device.sync()?;
    }
    if tokens > 0 {
        // This takes the pages. Their content is already there.
        cache.prefill(&vec![tokens; config.batch])?;
    }
    Ok(cache)
}

/// A layer with full digests, and packed ones where they are asked for, and with rows in these numbers.
pub(crate) fn with_storage(
    layer: LayerCache,
    digests: DigestStorage,
    rows: KvStorage,
) -> Result<LayerCache, BenchError> {
    let layer = match rows {
        KvStorage::Full => layer,
        KvStorage::Int8 => layer.with_int8_rows()?,
    };
    Ok(match digests {
        DigestStorage::Full => layer,
        DigestStorage::Int8 => layer.with_int8_digests()?,
    })
}

/// Pages whose digests are made at once: that takes several times their memory.
const PAGES_AT_ONCE: usize = 4096;

fn random_layer(
    index: usize,
    pool: [usize; 4],
    digest: DigestKind,
    device: &Device,
    dtype: DType,
) -> LayerCache {
    let [n_pages, _, _, _] = pool;
    let keys = normal(pool, device, dtype);
    let digests = (0..n_pages).step_by(PAGES_AT_ONCE).map(|first| {
        let pages = first..n_pages.min(first + PAGES_AT_ONCE);
        digest.fold(keys.clone().slice([pages]))
    });
    let digests = Tensor::cat(digests.collect(), 0);
    LayerCache::from_parts(index, keys, normal(pool, device, dtype), digest, digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read;

    #[test]
    fn digests_bound_the_random_keys() {
        let device = Device::default();
        let config =
            PagedKvCacheConfig::for_tokens(2, 3, 4, 8, 2, 24).with_digest(DigestKind::MinMax);
        let cache = filled_cache(&config, 23, &device, DType::F32).unwrap();
        assert_eq!(cache.lengths(), [23, 23]);
        for index in 0..2 {
            let layer = cache.layer(index);
            let digests = layer.digests().clone();
            let (keys, min, max) = (
                layer.keys().clone(),
                digests.clone().slice_dim(2, 0..1),
                digests.slice_dim(2, 1..2),
            );
            let below = keys.clone().min_dim(2) - min;
            let above = keys.clone().max_dim(2) - max;
            for distance in [below, above].map(|d| read::floats(d).unwrap()) {
                assert!(distance.iter().all(|&d| d == 0.0), "{distance:?}");
            }
            let values = read::floats(keys).unwrap();
            assert!(values.iter().any(|&v| v > 0.5) && values.iter().any(|&v| v < -0.5));
        }
    }
}
