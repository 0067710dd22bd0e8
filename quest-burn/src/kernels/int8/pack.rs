use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::super::{launch::assert_in_place, operands::Digests};
use crate::{
    cache::{CHANNELS_PER_SCALE, CHANNELS_PER_WORD, MIN_SCALE, OUTWARD, SCALE_OF_LARGEST},
    digest::KernelDigest,
};

/// A digest's rows as vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::kernels) struct PackedRow {
    /// Channels of a vector.
    pub width: usize,
    /// Vectors of a row.
    pub vectors: usize,
}

impl PackedRow {
    pub(crate) fn new(width: usize, vectors: usize) -> Self {
        assert!(
            width.is_multiple_of(CHANNELS_PER_WORD) && (width * vectors).is_multiple_of(16),
            "int8 digests: expected a head dim that is a multiple of 16, found {}",
            width * vectors
        );
        Self { width, vectors }
    }
}

/// Buffers that [`PackedDigests`] are in a launch.
pub(in crate::kernels) const PACKED_BINDINGS: usize = 2;

/// The packed digests that a kernel writes in place, where there are some; its units hold such rows.
/// The address width of the digests that are packed covers them, as there are fewer words.
pub(in crate::kernels) fn packed_arg(
    operation: &str,
    digests: &Digests<CubeBackend>,
    row: impl FnOnce() -> PackedRow,
) -> Option<PackedDigestsLaunch> {
    let Digests::Int8 { words, scales, .. } = digests else {
        return None;
    };
    assert_in_place(operation, "words of int8 digests", words);
    assert_in_place(operation, "scales of int8 digests", scales);
    Some(PackedDigestsLaunch::new(
        words.clone().into_buffer_arg(),
        scales.clone().into_buffer_arg(),
        row(),
    ))
}

/// Packed digests in a kernel.
#[derive(CubeType, CubeLaunch)]
pub(in crate::kernels) struct PackedDigests {
    words: Box<[i32]>,
    scales: Box<[f32]>,
    #[cube(comptime)]
    pub row: PackedRow,
}

/// The largest magnitude in a vector of each row.
#[cube]
pub(in crate::kernels) fn largest_of<D: KernelDigest, N: Size>(
    low: Vector<f32, N>,
    high: Vector<f32, N>,
    #[comptime] row: PackedRow,
) -> f32 {
    let mut largest = f32::new(0.0);
    #[unroll]
    for i in 0..row.width {
        largest = max(largest, low.extract(i).abs());
        if comptime!(D::ROWS == 2) {
            largest = max(largest, high.extract(i).abs());
        }
    }
    largest
}

/// Writes the packed `vector`-th channels of each row, their scale, and the number for all channels.
///
/// `largest` has what [`largest_of`] gives for every vector of the row, and the cube was
/// synchronised since. `place` counts the pool's pages of all KV heads.
#[cube]
pub(in crate::kernels) fn pack<D: KernelDigest, N: Size>(
    packed: &mut PackedDigests,
    largest: &Shared<[f32]>,
    low: Vector<f32, N>,
    high: Vector<f32, N>,
    scalar: f32,
    place: usize,
    vector: usize,
) {
    let row = comptime!(packed.row);
    let per_scale = comptime!(CHANNELS_PER_SCALE / row.width);
    let last = comptime!(row.vectors - 1);
    let of_vector = comptime!(row.width / CHANNELS_PER_WORD);
    let of_row = comptime!(row.vectors * of_vector);
    let n_groups = comptime!(row.vectors.div_ceil(per_scale));
    let n_scales = comptime!(n_groups + if D::SCALAR { 1 } else { 0 });
    let group = vector / per_scale;
    let mut largest_of_group = f32::new(0.0);
    #[unroll]
    for i in 0..per_scale {
        largest_of_group = max(largest_of_group, largest[min(group * per_scale + i, last)]);
    }
    let scale = max(largest_of_group * SCALE_OF_LARGEST, f32::new(MIN_SCALE));
    #[unroll]
    for w in 0..of_vector {
        let mut of_low = i32::new(0);
        let mut of_high = i32::new(0);
        #[unroll]
        for i in 0..CHANNELS_PER_WORD {
            let up = comptime!(8 * i as i32);
            let mut first = low.extract(w * CHANNELS_PER_WORD + i) / scale;
            if comptime!(D::IS_BOUND) {
                first = (first - first.abs() * OUTWARD).floor();
            } else {
                first = (first + 0.5f32).floor();
            }
            of_low |= (i32::cast_from(first) & 0xffi32) << up;
            if comptime!(D::ROWS == 2) {
                let mut second = high.extract(w * CHANNELS_PER_WORD + i) / scale;
                if comptime!(D::IS_BOUND) {
                    second = (second + second.abs() * OUTWARD).ceil();
                } else {
                    second = (second + 0.5f32).floor();
                }
                of_high |= (i32::cast_from(second) & 0xffi32) << up;
            }
        }
        let to = place * comptime!(D::ROWS * of_row) + vector * of_vector + w;
        packed.words[to] = of_low;
        if comptime!(D::ROWS == 2) {
            packed.words[to + of_row] = of_high;
        }
    }
    if vector % per_scale == 0 {
        packed.scales[place * n_scales + group] = scale;
    }
    if comptime!(D::SCALAR) {
        if vector == 0 {
            packed.scales[place * n_scales + n_groups] = scalar;
        }
    }
}
