//! KV caches whose content is random, made on the device.

use burn::tensor::{DType, Device, Distribution, Tensor};
use quest_burn::cache::{DigestFormat, LayerCache, PagedKvCache, PagedKvCacheConfig};

use crate::BenchError;

/// A tensor of normally distributed values that lies in memory without gaps: CUDA pitches the rows
/// of tensors that are made with several axes, and the kernels would copy those.
pub fn normal<const D: usize>(shape: [usize; D], device: &Device, dtype: DType) -> Tensor<D> {
    let n = shape.iter().product::<usize>();
    let normal = Distribution::Normal(0.0, 1.0);
    Tensor::<1>::random([n], normal, (device, dtype)).reshape(shape)
}

/// A cache every sequence of which holds `tokens` random tokens.
pub fn filled_cache(
    config: &PagedKvCacheConfig,
    tokens: usize,
    device: &Device,
    dtype: DType,
) -> Result<PagedKvCache, BenchError> {
    let mut cache = config.init(device, dtype)?;
    for index in 0..cache.n_layers() {
        let layer = cache.layer_mut(index);
        let random = random_layer(index, layer.keys().dims(), device, dtype);
        *layer = with_format(random, config.digests)?;
        // Each layer is made before the next is begun, so that what it needs besides is reused.
        device.sync()?;
    }
    if tokens > 0 {
        // This takes the pages. Their content is already there.
        cache.prefill(&vec![tokens; config.batch])?;
    }
    Ok(cache)
}

/// A layer with full digests, and packed ones where the format asks for them.
pub fn with_format(layer: LayerCache, digests: DigestFormat) -> Result<LayerCache, BenchError> {
    Ok(match digests {
        DigestFormat::Full => layer,
        DigestFormat::Int8 => layer.with_int8_digests()?,
    })
}

fn random_layer(index: usize, pool: [usize; 4], device: &Device, dtype: DType) -> LayerCache {
    let [n_pages, n_kv_heads, page_size, head_dim] = pool;
    let keys = normal(pool, device, dtype);
    let n = n_pages * n_kv_heads * 2 * head_dim;
    let digests = Tensor::<1>::zeros([n], (device, dtype));
    let digests = digests.reshape([n_pages, n_kv_heads, 2, head_dim]);
    let all = |rows| [0..n_pages, 0..n_kv_heads, rows, 0..head_dim];
    // Row by row: a reduction would be tuned anew for every shape.
    let row = |row: usize| keys.clone().slice_dim(2, row..row + 1);
    let lowest = (1..page_size).fold(row(0), |lowest, i| lowest.min_pair(row(i)));
    let highest = (1..page_size).fold(row(0), |highest, i| highest.max_pair(row(i)));
    let digests = digests
        .slice_assign(all(0..1), lowest)
        .slice_assign(all(1..2), highest);
    LayerCache::from_parts(index, keys, normal(pool, device, dtype), digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read;

    #[test]
    fn digests_bound_the_random_keys() {
        let device = Device::default();
        let config = PagedKvCacheConfig::for_tokens(2, 3, 4, 8, 2, 24);
        let cache = filled_cache(&config, 23, &device, DType::F32).unwrap();
        assert_eq!(cache.lengths(), [23, 23]);
        for index in 0..2 {
            let layer = cache.layer(index);
            let digests = layer.digests().clone();
            let (keys, lowest, highest) = (
                layer.keys().clone(),
                digests.clone().slice_dim(2, 0..1),
                digests.slice_dim(2, 1..2),
            );
            let below = keys.clone().min_dim(2) - lowest;
            let above = keys.clone().max_dim(2) - highest;
            for distance in [below, above].map(|d| read::floats(d).unwrap()) {
                assert!(distance.iter().all(|&d| d == 0.0), "{distance:?}");
            }
            let values = read::floats(keys).unwrap();
            assert!(values.iter().any(|&v| v > 0.5) && values.iter().any(|&v| v < -0.5));
        }
    }
}
