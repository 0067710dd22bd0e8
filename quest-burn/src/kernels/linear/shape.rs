use burn::tensor::DType;
use cubecl::ir::HardwareProperties;

use super::Epilogue;

/// Most rows of the left side; with more, a matrix product reads weights as few times.
pub const MAX_ROWS: usize = 8;
/// Units of a cube.
const UNITS: usize = 256;
/// Bytes of the widest load of one unit.
const LOAD_BYTES: usize = 16;
/// Widest vector where the runtime does not say that any width will do.
const PORTABLE_VECTOR: usize = 4;
/// Loads of weights that a unit has in flight.
const IN_FLIGHT: usize = 8;
/// Planes that a multiprocessor is meant to hold.
const PLANES_PER_MULTIPROCESSOR: usize = 16;

/// How the products of a linear layer are shared among units.
///
/// A plane takes the products of `rows` left sides with `weights` neighbouring weight rows; `split`
/// planes share those, each a part of the input channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemvShape {
    pub plane: usize,
    pub units: usize,
    pub split: usize,
    /// Rows of the left side.
    pub rows: usize,
    /// Output channels of a plane.
    pub outputs: usize,
    /// Vectors of each weight row that a unit has in flight.
    pub in_flight: usize,
    pub epilogue: Epilogue,
}

impl GemvShape {
    pub fn new(
        hardware: &HardwareProperties,
        multiprocessors: usize,
        rows: usize,
        columns: usize,
        vectors: usize,
        epilogue: Epilogue,
    ) -> Self {
        let plane = hardware.plane_size_min as usize;
        let units = UNITS.min(hardware.max_units_per_cube as usize).max(plane);
        let planes = units / plane;
        let enough = PLANES_PER_MULTIPROCESSOR * multiprocessors;
        // Left sides are read once per plane: the more there are, the more weight rows share them.
        let mut outputs = match (rows, epilogue.gated) {
            (1, true) => 1,
            (1, false) | (2.., true) => 2,
            (2.., false) => 4,
            (0, _) => unreachable!("rows were checked"),
        };
        while outputs > 1 && columns / outputs < enough {
            outputs /= 2;
        }
        // Sums of a plane are spread over its units.
        while outputs > 1 && sums(rows, outputs, epilogue.gated) > plane {
            outputs /= 2;
        }
        let mut split = 1;
        while split < planes
            && columns.div_ceil(outputs) * split < enough
            && vectors >= 4 * split * plane
        {
            split *= 2;
        }
        let weights = outputs * if epilogue.gated { 2 } else { 1 };
        let per_unit = vectors.div_ceil(split * plane);
        Self {
            plane,
            units,
            split,
            rows,
            outputs,
            in_flight: (IN_FLIGHT / weights)
                .min(per_unit.next_power_of_two())
                .max(1),
            epilogue,
        }
    }

    /// Weight rows of a plane.
    pub fn weights(&self) -> usize {
        self.outputs * if self.epilogue.gated { 2 } else { 1 }
    }

    /// Sums of a plane, filled up to a power of two.
    pub fn sums(&self) -> usize {
        sums(self.rows, self.outputs, self.epilogue.gated)
    }

    /// Output channels of a cube.
    pub fn cube_outputs(&self) -> usize {
        self.units / self.plane / self.split * self.outputs
    }
}

fn sums(rows: usize, outputs: usize, gated: bool) -> usize {
    (rows * outputs * if gated { 2 } else { 1 }).next_power_of_two()
}

/// Channels of a vector: as many as one load takes and as divide a row.
pub fn vector_width(d_input: usize, dtype: DType, hardware: &HardwareProperties) -> usize {
    let widest = LOAD_BYTES / dtype.size();
    let widest = match hardware.max_vector_size == cubecl::prelude::VectorSize::MAX {
        true => widest,
        false => widest.min(PORTABLE_VECTOR),
    };
    widest.min(1 << d_input.trailing_zeros())
}
