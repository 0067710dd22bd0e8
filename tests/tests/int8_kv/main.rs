//! Keys and values in 8 bits: what they stand for, what attention makes of them, and what a cache
//! does with them, in caches whose unfilled rows are NaN.

mod attention;
mod cache;
mod format;

use burn::tensor::{Device, Tensor};
use quest_burn::{cache::KvStorage, digest::DigestKind};
use quest_burn_tests::{
    arrays::random,
    catalogue::{AttentionShape, attention_shapes},
    devices::{TestDevice, devices},
    filled::Filled,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// f32 sums of up to some thousand products of values in -2..2.
const TOLERANCE: f64 = 2e-5;

/// Those of the catalogue whose head dims can be kept in 8 bits.
fn shapes() -> impl Iterator<Item = AttentionShape> {
    let shapes = attention_shapes().into_iter();
    shapes.filter(|shape| shape.head_dim.is_multiple_of(16))
}

/// Calls `test` with a filled cache and a query, for every device and shape.
fn for_each_shape(test: impl Fn(&AttentionShape, &Filled, Tensor<3>, &str)) {
    for_each_device(|_, shape, filled, query, context| test(shape, filled, query, context));
}

fn for_each_device(test: impl Fn(&TestDevice, &AttentionShape, &Filled, Tensor<3>, &str)) {
    for device in devices() {
        for (seed, shape) in shapes().enumerate() {
            let mut rng = StdRng::seed_from_u64(seed as u64);
            let filled = filled(&shape, DigestKind::MinMax, &device.device, &mut rng);
            let query = [shape.lengths.len(), shape.n_heads, shape.head_dim];
            let query = random(query, &device.device, &mut rng);
            test(
                &device,
                &shape,
                &filled,
                query,
                &format!("{device}, {shape}"),
            );
        }
    }
}

fn filled(shape: &AttentionShape, digest: DigestKind, device: &Device, rng: &mut StdRng) -> Filled {
    let mut draw = || rng.random_range(-2.0f32..2.0);
    Filled::configured(
        shape,
        |config| config.with_digest(digest).with_kv_storage(KvStorage::Int8),
        device,
        &mut draw,
    )
}

/// What rows of a host stand for once they are rounded, by the same numbers in f32, and half a step of their
/// scales.
fn rounded(rows: &[Vec<f64>]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let of_row = |row: &Vec<f64>| {
        let largest = row.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let scale = largest as f32 / 127.0;
        let integers = row.iter().map(|&x| (x as f32 / scale + 0.5).floor());
        let rounded = integers.map(|integer| f64::from(integer) * f64::from(scale));
        (rounded.collect::<Vec<_>>(), f64::from(scale) / 2.0)
    };
    rows.iter().map(of_row).unzip()
}
