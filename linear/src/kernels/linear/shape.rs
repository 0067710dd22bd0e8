use burn::tensor::DType;
use cubecl::ir::HardwareProperties;

use super::Epilogue;

/// Most LHS rows on any device; with more, a matrix product reads weights as few times.
pub const MAX_ROWS: usize = 8;
/// Most units of a cube.
const UNITS: usize = 512;
/// Bytes of the widest load of one unit.
const LOAD_BYTES: usize = 16;
/// Widest vector where the runtime does not say that any width will do.
const PORTABLE_VECTOR: usize = 4;
/// Weight rows that a cube reads at a time: neighbours, and so one run of memory.
const WEIGHT_ROWS: usize = 8;
/// Loads of weights that a unit has in flight.
const IN_FLIGHT: usize = 8;
/// Sums that a unit keeps.
const MAX_SUMS: usize = 32;
/// Cubes that a multiprocessor is meant to hold.
const CUBES_PER_MULTIPROCESSOR: usize = 2;

/// How the products of a linear layer are shared among units.
///
/// A cube takes the products of `rows` LHS rows with a few neighbouring weight rows, then with
/// those that come as many cubes later as there are. `split` of its planes share a weight row, each a
/// part of the input channels; the fewer streams a memory serves, and the longer they are, the faster
/// it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GemvShape {
    pub plane: usize,
    pub units: usize,
    pub split: usize,
    /// LHS rows.
    pub rows: usize,
    /// Loads of a weight row.
    pub vectors: usize,
    /// Vectors of an LHS row to each load of a weight row: more than one where weights are packed.
    pub pieces: usize,
    /// Whether the LHS row is normed first, and kept in shared memory.
    pub normed: bool,
    /// Output channels of a plane at a time.
    pub outputs: usize,
    /// Loads of each weight row that a unit has in flight.
    pub in_flight: usize,
    pub epilogue: Epilogue,
}

impl GemvShape {
    /// The shape, and the number of cubes.
    pub(super) fn new(
        hardware: &HardwareProperties,
        multiprocessors: usize,
        rows: usize,
        columns: usize,
        vectors: usize,
        pieces: usize,
        normed: bool,
        epilogue: Epilogue,
    ) -> (Self, usize) {
        let plane = hardware.plane_size_min as usize;
        let units = UNITS.min(hardware.max_units_per_cube as usize).max(plane);
        let planes = 1 << (units / plane).ilog2();
        let units = planes * plane;
        let mut split = 1;
        while split < planes && vectors >= 2 * split * plane {
            split *= 2;
        }
        let per_output = epilogue.per_output();
        let at_once = CUBES_PER_MULTIPROCESSOR * multiprocessors;
        let mut outputs = (WEIGHT_ROWS / per_output).max(1);
        while outputs > 1
            && (outputs * per_output * rows > MAX_SUMS
                || columns.div_ceil(planes / split * outputs) < at_once)
        {
            outputs /= 2;
        }
        let weights = outputs * per_output;
        let per_unit = vectors.div_ceil(split * plane);
        let shape = Self {
            plane,
            units,
            split,
            rows,
            vectors,
            pieces,
            normed,
            outputs,
            in_flight: (IN_FLIGHT / weights)
                .min(per_unit.next_power_of_two())
                .max(1),
            epilogue,
        };
        let turns = columns.div_ceil(shape.cube_outputs());
        (shape, turns.min(at_once))
    }

    /// Vectors of an LHS row.
    pub(super) fn row_vectors(&self) -> usize {
        self.vectors * self.pieces
    }

    /// Weight rows of a plane at a time.
    pub(super) fn weights(&self) -> usize {
        self.outputs * self.epilogue.per_output()
    }

    /// Sums of a plane, filled up to a power of two.
    pub(super) fn sums(&self) -> usize {
        (self.rows * self.weights()).next_power_of_two()
    }

    /// Output channels of a cube at a time.
    pub(super) fn cube_outputs(&self) -> usize {
        self.units / self.plane / self.split * self.outputs
    }
}

/// Channels of a vector: as many as one load takes and as divide a row.
pub(super) fn vector_width(d_input: usize, dtype: DType, hardware: &HardwareProperties) -> usize {
    let widest = LOAD_BYTES / dtype.size();
    let widest = match hardware.max_vector_size == cubecl::prelude::VectorSize::MAX {
        true => widest,
        false => widest.min(PORTABLE_VECTOR),
    };
    widest.min(1 << d_input.trailing_zeros())
}
