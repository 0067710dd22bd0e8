use cubecl::{ir::HardwareProperties, prelude::*};

use super::{
    super::{rms_norm::scaled, row::lanes_sum},
    args::ActivationsArg,
    shape::GemvShape,
};

/// Bytes of shared memory that normed LHS rows may take: with more, fewer cubes would fit.
const MAX_BYTES: usize = 32 << 10;

/// RMS-normalised LHS rows of a linear layer.
#[derive(CubeType)]
pub(super) struct NormedRows<F: Float, N: Size> {
    /// In the interleaved layout of [`place`]; unused unless `shape.normed`.
    pub rows: Shared<[Vector<F, N>]>,
}

/// Whether there is room for this many bytes of normed LHS rows.
pub(super) fn fits(bytes: usize, hardware: &HardwareProperties) -> bool {
    // Sums of planes need some room too.
    bytes <= MAX_BYTES.min(hardware.max_shared_memory_size / 2)
}

/// Where the `i`-th vector of a normed LHS row lies.
///
/// Interleaved: lanes with consecutive weight loads read consecutive vectors of shared memory, without bank
/// conflicts.
#[cube]
pub(super) fn place(i: usize, #[comptime] shape: GemvShape) -> usize {
    let GemvShape {
        vectors, pieces, ..
    } = comptime!(shape);
    if comptime!(pieces == 1) {
        i
    } else {
        i % pieces * vectors + i / pieces
    }
}

/// Norms the LHS rows, if they are to be normed. Every unit of the cube must reach it.
///
/// Every cube norms all of them: reading them again costs less than a launch.
#[cube]
pub(super) fn norm_rows<F: Float, N: Size>(
    activations: &ActivationsArg<F, N>,
    #[comptime] width: usize,
    #[comptime] shape: GemvShape,
) -> NormedRows<F, N> {
    let GemvShape {
        plane,
        units,
        rows: m,
        normed: is_normed,
        ..
    } = comptime!(shape);
    let vectors = comptime!(shape.row_vectors());
    let size = comptime!(if is_normed { m * vectors } else { 1 });
    let mut normed = Shared::<[Vector<F, N>]>::new_slice(size);
    if comptime!(is_normed) {
        let planes = comptime!(units / plane);
        let mut sums = Shared::<[f32]>::new_slice(comptime!(m * planes));
        #[unroll]
        for row in 0..m {
            let mut sum = f32::new(0.0);
            let mut i = UNIT_POS as usize;
            while i < vectors {
                let value = Vector::<f32, N>::cast_from(activations.rows[row * vectors + i]);
                sum += (value * value).vector_sum();
                i += units;
            }
            let sum = lanes_sum(sum, plane);
            if UNIT_POS as usize % plane == 0 {
                sums[row * planes + UNIT_POS as usize / plane] = sum;
            }
        }
        sync_cube();
        #[unroll]
        for row in 0..m {
            let mut total = f32::new(0.0);
            #[unroll]
            for other in 0..planes {
                total += sums[row * planes + other];
            }
            let d_input = comptime!((vectors * width) as f32);
            let rms = Vector::<f32, N>::new(f32::sqrt(total / d_input + activations.epsilon));
            let mut i = UNIT_POS as usize;
            while i < vectors {
                let value = Vector::<f32, N>::cast_from(activations.rows[row * vectors + i]);
                normed[row * vectors + place(i, shape)] =
                    scaled::<F, N>(value / rms, activations.gamma[i]);
                i += units;
            }
        }
        sync_cube();
    }
    NormedRows::<F, N> { rows: normed }
}
