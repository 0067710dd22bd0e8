//! What a cache holds, and whether two hold the same.

use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::cache::PagedKvCache;

use super::floats;

/// Keys, values, digests and the scales of packed digests of what a sequence holds in every layer.
fn contents(cache: &PagedKvCache, sequence: usize) -> Vec<Vec<f32>> {
    let length = cache.lengths()[sequence];
    let device = cache.layer(0).device();
    let pages = cache.pages()[sequence].iter().map(|&p| p as i32);
    let pages = pages.collect::<Vec<_>>();
    let n = pages.len();
    let pages = Tensor::<1, Int>::from_data(TensorData::new(pages, [n]), &device);
    let rows = |pool: &Tensor<4>, kept: usize| {
        let [_, heads, rows, channels] = pool.dims();
        let pages = pool.clone().select(0, pages.clone()).swap_dims(0, 1);
        let pages = pages.reshape([heads, n * rows, channels]);
        floats(pages.slice([0..heads, 0..kept]))
    };
    let layers = (0..cache.n_layers()).map(|layer| {
        let layer = cache.layer(layer);
        let scales = layer.int8_digests().map(|digests| {
            let scales = digests.scales().clone().select(1, pages.clone());
            floats(scales)
        });
        [
            rows(&layer.key_rows().widened(), length),
            rows(&layer.value_rows().widened(), length),
            rows(layer.digests(), n * layer.digests().dims()[2]),
            scales.unwrap_or_default(),
        ]
    });
    layers.flatten().collect()
}

#[track_caller]
pub(crate) fn assert_same_contents(found: &PagedKvCache, expected: &PagedKvCache, case: &str) {
    assert_eq!(found.lengths(), expected.lengths(), "{case}");
    assert_eq!(found.free_pages(), expected.free_pages(), "{case}: pages");
    for sequence in 0..expected.batch() {
        let pairs = contents(found, sequence)
            .into_iter()
            .zip(contents(expected, sequence));
        for (pool, (found, expected)) in pairs.enumerate() {
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (f - e).abs() <= 1e-3 * (1.0 + e.abs()),
                    "{case}: sequence {sequence}, pool {pool}, {i}: {f}, expected {e}"
                );
            }
        }
    }
}
