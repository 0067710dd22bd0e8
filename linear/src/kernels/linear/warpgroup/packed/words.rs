//! Weights in words, as numbers of the dtype.

use cubecl::prelude::*;

use super::{super::super::Packing, shape::PackedShape};

/// Scales and zero points of a unit's two weight rows for the runs of a stage.
#[derive(CubeType)]
pub(super) struct Scales<F: Float, H: Size> {
    pub scales: Array<Vector<F, H>>,
    pub zeros: Array<Vector<F, H>>,
}

/// The same, in each half of a word.
#[derive(CubeType)]
pub(super) struct Halves<F: Float, P: Size> {
    scales: Array<Vector<F, P>>,
    /// What is subtracted from integers in the lowest bits of a number.
    low: Array<Vector<F, P>>,
    /// What is added to integers above them, once they are as large as in the lowest bits.
    high: Array<Vector<F, P>>,
}

/// Bits of a number, twice, in whose lowest bits integers are counted: 1024 in f16, 128 in bf16.
const fn exponent(dtype: &str) -> (u32, f32) {
    match dtype.as_bytes()[0] {
        b'b' => (0x4300_4300, 128.0),
        _ => (0x6400_6400, 1024.0),
    }
}

#[cube]
pub(super) fn of_halves<F: Float, P: Size, H: Size>(
    loaded: &Scales<F, H>,
    #[comptime] shape: PackedShape,
) -> Halves<F, P> {
    let n = comptime!(2 * shape.runs_of_group());
    let offset = comptime!(exponent(shape.stages.dtype).1);
    let mut halves = Halves::<F, P> {
        scales: Array::new(n),
        low: Array::new(n),
        high: Array::new(n),
    };
    #[unroll]
    for i in 0..n {
        let zero = if comptime!(shape.packing.asymmetric) {
            loaded.zeros[i].extract(0usize)
        } else {
            F::new(comptime!(shape.packing.middle()))
        };
        halves.scales[i] = Vector::new(loaded.scales[i].extract(0usize));
        halves.low[i] = Vector::new(zero + F::new(offset));
        halves.high[i] = Vector::new(F::new(comptime!(-offset / 16.0)) - zero);
    }
    halves
}

/// The `index`-th two weights of a word, which are 16 bits apart. Exact but for the scale.
#[cube]
pub(super) fn two_of_word<F: Float, P: Size>(
    word: u32,
    halves: &Halves<F, P>,
    #[comptime] at: usize,
    #[comptime] index: usize,
    #[comptime] packing: Packing,
    #[comptime] dtype: &'static str,
) -> u32 {
    let bits = comptime!(packing.bits);
    let numbers = comptime!(exponent(dtype).0);
    // Of 4 bits, every other one stays above the lowest bits where the mantissa has room.
    let stays = comptime!(bits == 4 && dtype == "f16" && index % 2 == 1);
    let down = comptime!(bits * if stays { index - 1 } else { index });
    let mask = comptime!(if stays {
        0x00f0_00f0u32
    } else if bits == 4 {
        0x000f_000fu32
    } else {
        0x00ff_00ffu32
    });
    let shifted = if comptime!(down == 0) {
        word
    } else {
        word >> comptime!(down as u32)
    };
    let value = Vector::<F, P>::reinterpret((shifted & mask) | numbers);
    let value = if comptime!(stays) {
        fma(
            value,
            Vector::new(F::new(comptime!(1.0 / 16.0))),
            halves.high[at],
        )
    } else {
        value - halves.low[at]
    };
    u32::reinterpret(value * halves.scales[at])
}
