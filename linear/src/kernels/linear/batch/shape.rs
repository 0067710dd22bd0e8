use super::super::{
    super::matrix_instruction::{COLUMNS, PLANE, ROWS},
    Epilogue,
    segments::{Segmentation, Sizes},
};

/// Most planes of a cube.
pub(super) const PLANES: usize = 16;
/// Bytes of a vector, the widest load of one unit.
const VECTOR_BYTES: usize = 16;
/// Channels of a vector.
pub(super) const WIDTH: usize = 8;
/// Lanes that share a weight row.
pub(super) const LANES: usize = 4;
/// Vectors of each of its weight rows that a plane reads at a time, two to a lane: a line of memory.
pub(super) const STEP: usize = 2 * LANES;
/// Floats from one LHS row's sums to the next one's, so that few of a plane's share a bank.
pub(super) const SUMS: usize = ROWS + 4;
/// Bytes of weights that a cube is meant to have in flight.
const IN_FLIGHT: usize = 32 << 10;
/// Steps of a row that are staged at a time, where there is room.
const BLOCK: usize = 8;
/// Vectors of LHS rows that a unit loads at a time: with more, sums and weights leave the registers.
const MAX_LOADS: usize = 4;
/// When cubes divide the channels among them.
pub(super) const SEGMENTATION: Segmentation = Segmentation {
    enough: [3, 2],
    min_channels: 16 * STEP * WIDTH,
    equal: None,
};

/// How the products of a batch's rows are shared among units.
///
/// A cube takes the products of all LHS rows with a few runs of 16 weight rows, then with those that
/// come as many cubes later as there are. Each run belongs to `split` planes, which take the steps of
/// its rows in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BatchShape {
    /// Runs of 8 LHS rows, the last one filled up.
    pub groups: usize,
    /// Runs of weight rows of a cube at a time: first gates, then what they gate.
    pub tiles: usize,
    /// Planes of a run.
    pub split: usize,
    /// Steps of a plane for which LHS rows are staged at a time.
    pub steps: usize,
    /// Steps of a plane in flight.
    pub in_flight: usize,
    pub epilogue: Epilogue,
}

impl BatchShape {
    pub(super) fn new(sizes: &Sizes) -> Self {
        let &Sizes {
            shared_bytes,
            cubes,
            lhs_rows,
            outputs,
            epilogue,
            ..
        } = sizes;
        let per_output = epilogue.per_output();
        let runs = outputs.div_ceil(ROWS);
        // Equal turns, and as few as there can be.
        let turns = runs.div_ceil(PLANES / per_output * cubes);
        let tiles = runs.div_ceil(turns * cubes) * per_output;
        let split = 1 << (PLANES / tiles).ilog2();
        let mut shape = Self {
            groups: lhs_rows.div_ceil(COLUMNS),
            tiles,
            split,
            steps: (BLOCK / split).max(1),
            in_flight: 1,
            epilogue,
        };
        while shape.steps > 1 && (shape.shared_bytes() > shared_bytes || shape.loads() > MAX_LOADS)
        {
            shape.steps /= 2;
        }
        // Half as many units have twice as many registers.
        let crowded = shape.loads() > MAX_LOADS && shape.planes() > PLANES / 2;
        while shape.split > 1
            && (shape.shared_bytes() > shared_bytes || crowded && shape.planes() > PLANES / 2)
        {
            shape.split /= 2;
        }
        let step_bytes = shape.planes() * ROWS * STEP * VECTOR_BYTES;
        shape.in_flight = IN_FLIGHT.div_ceil(step_bytes).next_power_of_two();
        shape
    }

    /// Bytes of LHS rows and sums.
    fn shared_bytes(&self) -> usize {
        2 * self.lhs_vectors() * VECTOR_BYTES + self.sums() * size_of::<f32>()
    }

    pub(super) fn planes(&self) -> usize {
        self.tiles * self.split
    }

    pub(super) fn units(&self) -> usize {
        self.planes() * PLANE
    }

    /// Output channels of a cube at a time.
    pub(super) fn outputs(&self) -> usize {
        self.output_tiles() * ROWS
    }

    /// Runs of weight rows that have outputs of their own.
    pub(super) fn output_tiles(&self) -> usize {
        self.tiles / self.epilogue.per_output()
    }

    /// LHS rows, filled up.
    pub(super) fn lhs_rows(&self) -> usize {
        self.groups * COLUMNS
    }

    /// Vectors of a row that are staged at a time.
    pub(super) fn block(&self) -> usize {
        self.steps * self.split * STEP
    }

    /// Vectors of LHS rows that are staged at a time.
    pub(super) fn lhs_vectors(&self) -> usize {
        self.block() * self.lhs_rows()
    }

    /// Vectors of LHS rows that a unit loads at a time.
    pub(super) fn loads(&self) -> usize {
        self.lhs_vectors().div_ceil(self.units())
    }

    /// Steps after which every slot and every staged step has had its turn.
    pub(super) fn round(&self) -> usize {
        self.steps.max(self.in_flight)
    }

    /// Floats of all planes' sums.
    pub(super) fn sums(&self) -> usize {
        self.planes() * self.lhs_rows() * SUMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_fits_and_leaves_no_output_out() {
        for (multiprocessors, bytes) in [(132, 227 << 10), (108, 163 << 10), (68, 99 << 10)] {
            for lhs_rows in [9, 16, 17, 33, 64] {
                for columns in [1, 34, 130, 4096, 6144, 14_336, 128_256] {
                    for gated in [false, true] {
                        for n_segments in [1, 2, 8] {
                            let epilogue = Epilogue {
                                gated,
                                ..Epilogue::default()
                            };
                            let cubes = multiprocessors / n_segments;
                            let shape = BatchShape::new(&Sizes {
                                segments: n_segments,
                                shared_bytes: bytes,
                                cubes,
                                lhs_rows,
                                outputs: columns,
                                channels: 4096 / n_segments,
                                epilogue,
                            });
                            let what = format!("{shape:?}");
                            assert!(shape.planes() <= PLANES && shape.split > 0, "{what}");
                            assert!(shape.shared_bytes() <= bytes, "{what}");
                            assert!(shape.lhs_rows() >= lhs_rows, "{what}");
                            assert_eq!(shape.round() % shape.steps, 0, "{what}");
                            assert_eq!(shape.round() % shape.in_flight, 0, "{what}");
                            assert_eq!(shape.tiles % if gated { 2 } else { 1 }, 0, "{what}");
                            let turns = columns.div_ceil(shape.outputs()).div_ceil(cubes);
                            let max = PLANES / if gated { 2 } else { 1 } * ROWS;
                            assert_eq!(turns, columns.div_ceil(max * cubes), "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn few_weight_rows_to_many_left_sides_are_taken_in_segments() {
        let segments = |sizes| SEGMENTATION.segments(132, sizes);
        assert_eq!(segments([16, 4096, 4096]), 1);
        assert_eq!(segments([64, 4096, 4096]), 4);
        assert_eq!(segments([64, 28_672, 4096]), 1);
        // Too few channels to share.
        assert_eq!(segments([64, 32, 1024]), 1);
        assert_eq!(segments([64, 32, 2048]), 2);
        // Segments need not be equal.
        assert_eq!(segments([64, 32, 2112]), 2);
    }
}
