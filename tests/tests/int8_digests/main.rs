//! Digests in 8 bits: they bound what the full ones bound, on every device and in whatever a cache
//! holds, and stay near to those that bound nothing.

mod format;
mod packing;
mod rounding;
mod scores;

use burn::tensor::{Device, Int, Tensor};
use quest_burn::{
    cache::{DigestStorage, LayerCache},
    digest::DigestKind,
};
use quest_burn_tests::{
    arrays::{random, rows},
    catalogue::{AttentionShape, attention_shapes},
    devices::{TestDevice, devices},
    filled::Filled,
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// What the numbers of keys are like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    Even,
    /// A few a thousand times the rest, as in some channels of trained models.
    Outliers,
    Zeros,
    /// Few are not zero.
    Sparse,
    Huge,
    /// Below the least normal f32.
    Denormal,
    /// Of one sign, all alike.
    Constant,
}

const NUMBERS: [Numbers; 7] = [
    Numbers::Even,
    Numbers::Outliers,
    Numbers::Zeros,
    Numbers::Sparse,
    Numbers::Huge,
    Numbers::Denormal,
    Numbers::Constant,
];

impl Numbers {
    fn draw(self, rng: &mut impl Rng) -> f32 {
        let x = rng.random_range(-2.0f32..2.0);
        match self {
            Self::Even => x,
            Self::Outliers if rng.random_range(0..40) == 0 => 1000.0 * x,
            Self::Outliers => x,
            Self::Zeros => 0.0,
            Self::Sparse if rng.random_range(0..100) == 0 => x,
            Self::Sparse => 0.0,
            Self::Huge => x * 1e35,
            Self::Denormal => x * 1e-40,
            Self::Constant => -1.3,
        }
    }
}

/// The shapes of the catalogue whose head dim can be packed.
fn shapes() -> impl Iterator<Item = AttentionShape> {
    let shapes = attention_shapes().into_iter();
    shapes.filter(|shape| shape.head_dim.is_multiple_of(16))
}

fn filled(
    shape: &AttentionShape,
    digest: DigestKind,
    numbers: Numbers,
    device: &Device,
    seed: u64,
) -> (Filled, Tensor<3>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut draw = || numbers.draw(&mut rng);
    let filled = Filled::drawn(shape, digest, DigestStorage::Int8, device, &mut draw);
    let query = [shape.lengths.len(), shape.n_heads, shape.head_dim];
    (filled, random(query, device, &mut rng))
}

/// Calls `test` with a filled cache of bounds and a query for every device and shape, with all kinds of
/// numbers in turn.
fn for_each_shape(test: impl Fn(&TestDevice, &AttentionShape, Filled, Tensor<3>, &str)) {
    for_each_of(&[DigestKind::MinMax], test);
}

/// The same with every kind of digests.
fn for_each_digest(test: impl Fn(&TestDevice, &AttentionShape, Filled, Tensor<3>, &str)) {
    for_each_of(DigestKind::ALL, test);
}

fn for_each_of(
    digests: &[DigestKind],
    test: impl Fn(&TestDevice, &AttentionShape, Filled, Tensor<3>, &str),
) {
    for device in devices() {
        for (seed, shape) in shapes().enumerate() {
            let numbers = NUMBERS[seed % NUMBERS.len()];
            for &digest in digests {
                // Squares of huge deviations are beyond f32.
                if numbers == Numbers::Huge && !digest.is_bound() {
                    continue;
                }
                let (filled, query) = filled(&shape, digest, numbers, &device.device, seed as u64);
                let context = format!("{device}, {shape}, {digest}, {numbers:?}, seed {seed}");
                test(&device, &shape, filled, query, &context);
            }
        }
    }
}

fn ints<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<i32> {
    let data = tensor.clone().into_data().convert::<i32>();
    data.try_to_vec().expect("converted to i32")
}

/// What packed digests stand for, exactly: `[page][minimum or maximum][channel]` of a KV head, and
/// the scale of each channel, `[page][channel]`.
type OfPages<T> = Vec<Vec<T>>;
fn unpacked(layer: &LayerCache, kv_head: usize) -> (OfPages<Vec<f64>>, OfPages<f64>) {
    let digests = layer.int8_digests().expect("the cache has packed digests");
    let [_, n_pages, _, row] = digests.words().dims();
    let words = ints(&digests.words().clone().slice([kv_head..kv_head + 1]));
    let scales = rows(&digests.scales().clone().slice([kv_head..kv_head + 1]));
    let scales = scales.into_iter().map(|scales| {
        let channels = (0..4 * row).map(|channel| scales[channel / 32]);
        channels.collect::<Vec<_>>()
    });
    let scales = scales.collect::<Vec<_>>();
    let pages = words.chunks(2 * row).zip(&scales).map(|(page, scales)| {
        let rows = page.chunks(row).map(|words| {
            let integers = words.iter().flat_map(|word| word.to_le_bytes());
            integers
                .zip(scales)
                .map(|(byte, scale)| {
                    assert_ne!(byte as i8, i8::MIN, "integers are symmetric");
                    f64::from(byte as i8) * scale
                })
                .collect()
        });
        rows.collect()
    });
    let pages = pages.collect::<Vec<_>>();
    assert_eq!(pages.len(), n_pages);
    (pages, scales)
}

/// Numbers below this may be taken for zero.
const LEAST: f64 = f32::MIN_POSITIVE as f64;
