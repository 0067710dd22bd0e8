use burn::tensor::DType;
use cubecl::ir::HardwareProperties;

use super::Epilogue;

/// Most rows of the left side; with more, a matrix product reads weights as few times.
pub const MAX_ROWS: usize = 8;
/// Most units of a cube.
const UNITS: usize = 256;
/// Fewest planes of a cube whose size is free.
const MIN_PLANES: usize = 4;
/// Bytes of the widest load of one unit.
const LOAD_BYTES: usize = 16;
/// Widest vector where the runtime does not say that any width will do.
const PORTABLE_VECTOR: usize = 4;
/// Loads of weights that a unit has in flight.
const IN_FLIGHT: usize = 8;
/// Planes that a multiprocessor is meant to hold: fewer leave memory waiting, more do not fit.
const FEWEST_PLANES_PER_MULTIPROCESSOR: usize = 16;
const MOST_PLANES_PER_MULTIPROCESSOR: usize = 32;

/// How the products of a linear layer are shared among units.
///
/// A plane takes the products of `rows` left sides with `weights` neighbouring weight rows, then with
/// those that come as many planes later as there are. Where weight rows are few, `split` planes share
/// them, each a part of the input channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemvShape {
    pub plane: usize,
    pub units: usize,
    pub split: usize,
    /// Rows of the left side.
    pub rows: usize,
    /// Vectors of a left side.
    pub vectors: usize,
    /// Whether the left side is normed first, and kept in shared memory.
    pub normed: bool,
    /// Output channels of a plane at a time.
    pub outputs: usize,
    /// Vectors of each weight row that a unit has in flight.
    pub in_flight: usize,
    pub epilogue: Epilogue,
}

impl GemvShape {
    /// The shape, and the number of cubes.
    pub fn new(
        hardware: &HardwareProperties,
        multiprocessors: usize,
        rows: usize,
        columns: usize,
        vectors: usize,
        normed: bool,
        epilogue: Epilogue,
    ) -> (Self, usize) {
        let plane = hardware.plane_size_min as usize;
        let units = UNITS.min(hardware.max_units_per_cube as usize).max(plane);
        let enough = FEWEST_PLANES_PER_MULTIPROCESSOR * multiprocessors;
        // Left sides are read once per plane: the more there are, the more weight rows share them.
        let mut outputs = match (rows, epilogue.gated) {
            (1, _) => 1,
            (2.., true) => 2,
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
        let groups = columns.div_ceil(outputs);
        let mut planes = units / plane;
        let mut split = 1;
        while split < planes && groups * split < enough && vectors >= 4 * split * plane {
            split *= 2;
        }
        let mut cubes = (groups * split).div_ceil(planes);
        if split == 1 && groups > enough {
            let balance = Balance::of(groups, multiprocessors, planes);
            planes = balance.planes;
            cubes = balance.cubes * multiprocessors;
        }
        let weights = outputs * if epilogue.gated { 2 } else { 1 };
        let per_unit = vectors.div_ceil(split * plane);
        let shape = Self {
            plane,
            units: planes * plane,
            split,
            rows,
            vectors,
            normed,
            outputs,
            in_flight: (IN_FLIGHT / weights)
                .min(per_unit.next_power_of_two())
                .max(1),
            epilogue,
        };
        (shape, cubes)
    }

    /// Weight rows of a plane at a time.
    pub fn weights(&self) -> usize {
        self.outputs * if self.epilogue.gated { 2 } else { 1 }
    }

    /// Sums of a plane, filled up to a power of two.
    pub fn sums(&self) -> usize {
        sums(self.rows, self.outputs, self.epilogue.gated)
    }

    /// Output channels of a cube at a time.
    pub fn cube_outputs(&self) -> usize {
        self.units / self.plane / self.split * self.outputs
    }
}

fn sums(rows: usize, outputs: usize, gated: bool) -> usize {
    (rows * outputs * if gated { 2 } else { 1 }).next_power_of_two()
}

/// How many planes and cubes a multiprocessor holds, so that all of them take the same number of
/// turns: a last turn of few planes would leave memory idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Balance {
    /// Planes of a cube.
    planes: usize,
    /// Cubes of a multiprocessor.
    cubes: usize,
}

impl Balance {
    fn of(groups: usize, multiprocessors: usize, most_planes: usize) -> Self {
        let mut best = Self {
            planes: most_planes,
            cubes: (MOST_PLANES_PER_MULTIPROCESSOR / most_planes).max(1),
        };
        // Shares of busy planes, in thousandths; below a hundredth, more planes are worth more.
        let mut most = (0, 0);
        for planes in MIN_PLANES.min(most_planes)..=most_planes {
            for cubes in 1..=MOST_PLANES_PER_MULTIPROCESSOR / planes {
                let resident = planes * cubes;
                if resident < FEWEST_PLANES_PER_MULTIPROCESSOR {
                    continue;
                }
                let at_once = resident * multiprocessors;
                let turns = groups.div_ceil(at_once);
                let busy = (groups * 100 / (turns * at_once), resident);
                if busy > most {
                    most = busy;
                    best = Self { planes, cubes };
                }
            }
        }
        best
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_take_the_same_number_of_turns() {
        for (groups, turns) in [
            (4096, 1),
            (11_008, 3),
            (12_288, 3),
            (14_336, 4),
            (32_000, 8),
        ] {
            let Balance { planes, cubes } = Balance::of(groups, 132, 8);
            assert!((16..=32).contains(&(planes * cubes)), "{groups}");
            let at_once = 132 * planes * cubes;
            assert_eq!(groups.div_ceil(at_once), turns, "{groups}");
            assert!(groups * 100 >= 96 * turns * at_once, "{groups}");
        }
    }
}
