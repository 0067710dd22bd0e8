use burn::tensor::DType;

use super::super::{
    super::warpgroup::{
        ALIGNMENT, GROUP_BYTES, GROUP_ROWS, GROUP_UNITS, PARTS, ROW_BYTES, ptx_name,
    },
    Epilogue,
    segments::{Segmentation, Sizes},
};

/// Most LHS rows.
pub(in super::super) const MAX_ROWS: usize = 128;
/// Channels of a vector, a copy of 16 bytes.
pub(super) const WIDTH: usize = 8;
/// Channels of a row of a tile.
pub(super) const CHANNELS: usize = PARTS * WIDTH;
/// Most weight rows of a cube at a time.
const MAX_WEIGHT_ROWS: usize = 256;
/// Rows, left and right, that repeat the permutation of a tile.
const RUN: usize = 8;
/// LHS rows are filled up to a multiple of so many: every number of them would be a kernel of its own.
const LHS_RUN: usize = 16;
/// Bytes that a stage is meant to have at most, and those of them for LHS rows: few and large ones spare barriers,
/// but with many LHS rows small ones are faster.
const STAGE: usize = 32 << 10;
const LHS_OF_STAGE: usize = 8 << 10;
/// Most tiles of channels of a stage.
const MAX_DEPTH: usize = 4;
/// Most stages.
const MAX_STAGES: usize = 12;
/// When cubes divide the channels among them. A launch that adds up segments has to cost less than the LHS rows
/// that are not read.
pub(super) const SEGMENTATION: Segmentation = Segmentation {
    enough: [3, 5],
    min_channels: 16 * CHANNELS,
    equal: Some(CHANNELS),
};

/// How the products of a batch's rows are shared among cubes and their stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct StageShape {
    /// LHS rows, filled up.
    pub lhs_rows: usize,
    /// Outputs of a cube at a time.
    pub outputs: usize,
    /// Turns of a cube, each with outputs of its own.
    pub turns: usize,
    /// Tiles of channels of a stage.
    pub depth: usize,
    /// Stages in shared memory: one is multiplied, the last one may be, the others are copied.
    pub stages: usize,
    pub epilogue: Epilogue,
    /// As PTX calls it.
    pub dtype: &'static str,
}

impl StageShape {
    pub(super) fn new(sizes: &Sizes, dtype: DType) -> Self {
        let &Sizes {
            shared_bytes,
            cubes,
            lhs_rows,
            outputs,
            channels,
            epilogue,
            ..
        } = sizes;
        let of_cube = outputs.div_ceil(cubes);
        let turns = of_cube.div_ceil(MAX_WEIGHT_ROWS / epilogue.per_output());
        let mut shape = Self {
            lhs_rows: lhs_rows.next_multiple_of(if lhs_rows > RUN { LHS_RUN } else { RUN }),
            outputs: of_cube.div_ceil(turns),
            turns,
            depth: 1,
            stages: 0,
            epilogue,
            dtype: ptx_name(dtype),
        };
        let tiles = channels / CHANNELS;
        while 2 * shape.depth <= MAX_DEPTH.min(tiles)
            && 2 * shape.stage_bytes() <= STAGE
            && 2 * shape.depth * shape.lhs_rows * ROW_BYTES <= LHS_OF_STAGE
        {
            shape.depth *= 2;
        }
        let room = shared_bytes - ALIGNMENT - GROUP_BYTES;
        shape.stages = (room / shape.stage_bytes()).min(MAX_STAGES);
        shape
    }

    /// Cubes that take as many outputs.
    pub(super) fn cubes(&self, columns: usize) -> usize {
        columns.div_ceil(self.outputs * self.turns)
    }

    /// Weight rows of a cube in shared memory. Where outputs are gated, eight rows of gates and the eight that
    /// they gate take turns, so that a unit has the sums of both.
    pub(super) fn weight_rows(&self) -> usize {
        self.outputs.next_multiple_of(RUN) * self.epilogue.per_output()
    }

    /// Groups of four planes, each with 64 weight rows.
    pub(super) fn groups(&self) -> usize {
        self.weight_rows().div_ceil(GROUP_ROWS)
    }

    pub(super) fn units(&self) -> usize {
        self.groups() * GROUP_UNITS
    }

    /// Rows that a cube copies at once.
    pub(super) fn lines(&self) -> usize {
        self.units() / PARTS
    }

    /// Copies of a unit for the weight rows of a tile of channels, and for its LHS rows.
    pub(super) fn copies(&self) -> [usize; 2] {
        [self.weight_rows(), self.lhs_rows].map(|rows| rows.div_ceil(self.lines()))
    }

    /// Bytes of the weight rows of a tile of channels.
    pub(super) fn weight_bytes(&self) -> usize {
        self.weight_rows() * ROW_BYTES
    }

    /// Bytes of a tile of channels.
    pub(super) fn tile_bytes(&self) -> usize {
        self.weight_bytes() + self.lhs_rows * ROW_BYTES
    }

    pub(super) fn stage_bytes(&self) -> usize {
        self.depth * self.tile_bytes()
    }

    /// Shared memory in copies: room to begin at a multiple of [`ALIGNMENT`], and for what products read behind
    /// the last weight row, in vain.
    pub(super) fn shared(&self) -> usize {
        (ALIGNMENT + self.stages * self.stage_bytes() + GROUP_BYTES) / 16
    }

    /// Stages whose copies have begun before the first one is multiplied.
    pub(super) fn ahead(&self) -> usize {
        self.stages - 2
    }

    /// Sums of a unit.
    pub(super) fn sums(&self) -> usize {
        GROUP_ROWS * self.lhs_rows / GROUP_UNITS
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::super::warpgroup::fixture::SHARED_MEMORY, *};

    #[test]
    fn every_shape_fits_and_leaves_no_output_out() {
        for lhs_rows in [1, 9, 16, 17, 64, 100, 128] {
            for columns in [1, 34, 130, 4096, 6144, 14_336, 128_256] {
                for channels in [64, 192, 4096] {
                    for gated in [false, true] {
                        for cubes in [132, 66, 16] {
                            let epilogue = Epilogue {
                                gated,
                                ..Epilogue::default()
                            };
                            let sizes = Sizes {
                                segments: 1,
                                shared_bytes: SHARED_MEMORY,
                                cubes,
                                lhs_rows,
                                outputs: columns,
                                channels,
                                epilogue,
                            };
                            let shape = StageShape::new(&sizes, DType::F16);
                            let what = format!("{shape:?}");
                            assert!(16 * shape.shared() <= SHARED_MEMORY, "{what}");
                            assert!(shape.stages >= 4 && shape.groups() <= 4, "{what}");
                            assert!(shape.lhs_rows >= lhs_rows, "{what}");
                            assert!(shape.cubes(columns) <= cubes, "{what}");
                            let outputs = shape.cubes(columns) * shape.turns * shape.outputs;
                            assert!(outputs >= columns, "{what}");
                            assert!(shape.stage_bytes().is_multiple_of(ALIGNMENT), "{what}");
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
        assert_eq!(segments([64, 6144, 4096]), 1);
        assert_eq!(segments([64, 4096, 14_336]), 2);
        assert_eq!(segments([64, 28_672, 4096]), 1);
        // Too few channels to share.
        assert_eq!(segments([64, 32, 1024]), 1);
        assert_eq!(segments([64, 32, 2048]), 2);
        // An odd number of tiles.
        assert_eq!(segments([64, 32, 2112]), 1);
    }
}
