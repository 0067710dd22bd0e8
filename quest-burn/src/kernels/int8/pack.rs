use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::launch::assert_in_place;
use crate::cache::{CHANNELS_PER_SCALE, CHANNELS_PER_WORD, LEAST_SCALE, OUTWARD, SCALE_OF_LARGEST};

/// A digest's rows as vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::kernels) struct PackedRow {
    /// Channels of a vector.
    pub width: usize,
    /// Vectors of a row.
    pub vectors: usize,
}

impl PackedRow {
    pub fn new(width: usize, vectors: usize) -> Self {
        assert!(
            width.is_multiple_of(CHANNELS_PER_WORD) && (width * vectors).is_multiple_of(16),
            "int8 digests: expected a head dim that is a multiple of 16, found {}",
            width * vectors
        );
        Self { width, vectors }
    }
}

/// Pools of packed digests that a launch writes in place.
#[derive(Debug)]
pub(crate) struct PackedPools {
    pub words: CubeTensor,
    pub scales: CubeTensor,
}

/// Buffers that [`PackedPools`] are in a launch.
pub(in crate::kernels) const PACKED_BINDINGS: usize = 2;

impl PackedPools {
    /// The argument of a kernel whose units hold such rows. The address width of the digests that
    /// are packed covers it, as there are fewer words.
    pub(in crate::kernels) fn arg(&self, operation: &str, row: PackedRow) -> PackedDigestsLaunch {
        assert_in_place(operation, "words of int8 digests", &self.words);
        assert_in_place(operation, "scales of int8 digests", &self.scales);
        PackedDigestsLaunch::new(
            self.words.clone().into_buffer_arg(),
            self.scales.clone().into_buffer_arg(),
            row,
        )
    }
}

/// [`PackedPools`] in a kernel.
#[derive(CubeType, CubeLaunch)]
pub(in crate::kernels) struct PackedDigests {
    words: Box<[i32]>,
    scales: Box<[f32]>,
    #[cube(comptime)]
    pub row: PackedRow,
}

/// The largest magnitude in a vector of minima and one of maxima.
#[cube]
pub(in crate::kernels) fn largest_of<N: Size>(
    low: Vector<f32, N>,
    high: Vector<f32, N>,
    #[comptime] row: PackedRow,
) -> f32 {
    let mut largest = f32::new(0.0);
    #[unroll]
    for i in 0..row.width {
        largest = max(largest, max(low.extract(i).abs(), high.extract(i).abs()));
    }
    largest
}

/// Writes the packed minima and maxima of a row's `vector`-th channels, and their scale.
///
/// `largest` has what [`largest_of`] gives for every vector of the row, and the cube was
/// synchronised since. `place` counts the pool's pages of all KV heads.
#[cube]
pub(in crate::kernels) fn pack<N: Size>(
    packed: &mut PackedDigests,
    largest: &Shared<[f32]>,
    low: Vector<f32, N>,
    high: Vector<f32, N>,
    place: usize,
    vector: usize,
) {
    let row = comptime!(packed.row);
    let per_scale = comptime!(CHANNELS_PER_SCALE / row.width);
    let last = comptime!(row.vectors - 1);
    let of_vector = comptime!(row.width / CHANNELS_PER_WORD);
    let of_row = comptime!(row.vectors * of_vector);
    let n_scales = comptime!(row.vectors.div_ceil(per_scale));
    let group = vector / per_scale;
    let mut most = f32::new(0.0);
    #[unroll]
    for i in 0..per_scale {
        most = max(most, largest[min(group * per_scale + i, last)]);
    }
    let scale = max(most * SCALE_OF_LARGEST, f32::new(LEAST_SCALE));
    #[unroll]
    for w in 0..of_vector {
        let mut minima = i32::new(0);
        let mut maxima = i32::new(0);
        #[unroll]
        for i in 0..CHANNELS_PER_WORD {
            let minimum = low.extract(w * CHANNELS_PER_WORD + i) / scale;
            let maximum = high.extract(w * CHANNELS_PER_WORD + i) / scale;
            let minimum = (minimum - minimum.abs() * OUTWARD).floor();
            let maximum = (maximum + maximum.abs() * OUTWARD).ceil();
            let up = comptime!(8 * i as i32);
            minima |= (i32::cast_from(minimum) & 0xffi32) << up;
            maxima |= (i32::cast_from(maximum) & 0xffi32) << up;
        }
        let to = place * 2 * of_row + vector * of_vector + w;
        packed.words[to] = minima;
        packed.words[to + of_row] = maxima;
    }
    if vector % per_scale == 0 {
        packed.scales[place * n_scales + group] = scale;
    }
}
