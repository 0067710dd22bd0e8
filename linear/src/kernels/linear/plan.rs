use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        launch::{empty, multiprocessors},
        rms_norm::launch_rms_norm,
    },
    Epilogue,
    normed::fits,
    shape::{GemvShape, vector_width},
};

/// What a launch computes with, whatever form its weights have.
pub(super) struct Plan {
    /// LHS rows and the weight of their norm.
    pub rows: CubeTensor,
    pub gamma: CubeTensor,
    pub output: CubeTensor,
    /// Channels of an LHS row's vector.
    pub width: usize,
    pub shape: GemvShape,
    pub cubes: CubeCount,
    pub dim: CubeDim,
}

impl Plan {
    /// For `n` weight rows, of which a unit loads `per_load` channels at once, or as many as a
    /// vector of an LHS row has. Norms LHS rows that do not fit into shared memory.
    pub(super) fn new(
        rows: CubeTensor,
        gamma: CubeTensor,
        n: usize,
        per_load: Option<usize>,
        normed: bool,
        epsilon: f32,
        epilogue: Epilogue,
    ) -> Self {
        let mut rows = into_contiguous(rows);
        let gamma = into_contiguous(gamma);
        let (m, d_input) = (rows.meta.shape()[0], rows.meta.shape()[1]);
        let columns = n / epilogue.per_output();
        let client = rows.client.clone();
        let hardware = &client.properties().hardware;
        let mut normed = normed;
        if normed && !fits(m * d_input * rows.dtype.size(), hardware) {
            rows = launch_rms_norm(rows, gamma.clone(), epsilon);
            normed = false;
        }
        let width = vector_width(d_input, rows.dtype, hardware);
        let per_load = per_load.unwrap_or(width);
        let (shape, cubes) = GemvShape::new(
            hardware,
            multiprocessors(&rows),
            m,
            columns,
            d_input / per_load,
            per_load / width,
            normed,
            epilogue,
        );
        Self {
            output: empty(&rows, [m, columns], rows.dtype),
            rows,
            gamma,
            width,
            shape,
            cubes: CubeCount::Static(cubes as u32, 1, 1),
            dim: CubeDim::new_1d(shape.units as u32),
        }
    }
}
