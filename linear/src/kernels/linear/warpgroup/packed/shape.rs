use burn::tensor::DType;

use super::super::{
    super::{
        super::warpgroup::{ALIGNMENT, GROUP_BYTES, ROW_BYTES},
        Packing,
        segments::{Segmentation, Sizes},
    },
    shape::{CHANNELS, StageShape},
};

/// Bytes of a weight row that a plane takes at a time, a copy for each of four lanes.
pub(super) const RUN_BYTES: usize = 64;
/// Most groups of planes of a cube.
const MAX_GROUPS: usize = 4;
/// Stages that are enough, and most of them.
const MIN_STAGES: usize = 3;
const MAX_STAGES: usize = 12;

/// Channels of a run of weights of so many bits, which LHS rows have in an order of their own.
pub(super) const fn block(bits: usize) -> usize {
    RUN_BYTES * 8 / bits
}

/// When cubes divide the channels among them.
pub(super) const fn segmentation(bits: usize) -> Segmentation {
    Segmentation {
        enough: [3, 2],
        min_channels: 8 * block(bits),
        equal: Some(block(bits)),
    }
}

/// How the products of a batch's rows are shared among cubes and their stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PackedShape {
    /// As for whole weights; its depth is not used.
    pub stages: StageShape,
    /// Groups of planes that share weight rows, and take runs in turns: where there are few weight rows, one group
    /// alone would wait for its own products most of the time.
    pub split: usize,
    /// Runs of a weight row in a stage.
    pub runs: usize,
    pub packing: Packing,
}

impl PackedShape {
    pub(super) fn new(sizes: &Sizes, packing: Packing, dtype: DType) -> Self {
        let stages = StageShape::new(sizes, dtype);
        // The sums of groups that share rows are added up in the room of the stages, after the only turn.
        let split = match stages.turns {
            1 => 1 << (MAX_GROUPS / stages.groups()).ilog2(),
            _ => 1,
        };
        let mut shape = Self {
            stages,
            split,
            runs: 2 * split,
            packing,
        };
        let room = sizes.shared_bytes - ALIGNMENT - GROUP_BYTES;
        while shape.runs > 1 && room / shape.stage_bytes() < MIN_STAGES {
            shape.runs /= 2;
            shape.split = shape.split.min(shape.runs);
        }
        shape.stages.stages = (room / shape.stage_bytes()).min(MAX_STAGES);
        shape
    }

    pub(super) fn units(&self) -> usize {
        self.split * self.stages.units()
    }

    /// Bytes of a weight row in a stage.
    pub(super) fn row_bytes(&self) -> usize {
        self.runs * RUN_BYTES
    }

    /// Copies of a weight row in a stage.
    pub(super) fn parts(&self) -> usize {
        self.row_bytes() / 16
    }

    /// Weight rows that a cube copies at once.
    pub(super) fn lines(&self) -> usize {
        self.units() / self.parts()
    }

    /// Copies of a unit for the weight rows of a stage.
    pub(super) fn weight_copies(&self) -> usize {
        self.stages.weight_rows().div_ceil(self.lines())
    }

    /// Bytes of the weight rows of a stage, to a multiple of [`ALIGNMENT`].
    pub(super) fn weight_bytes(&self) -> usize {
        (self.stages.weight_rows() * self.row_bytes()).next_multiple_of(ALIGNMENT)
    }

    /// Runs of a stage that a group takes.
    pub(super) fn runs_of_group(&self) -> usize {
        self.runs / self.split
    }

    /// Tiles of 64 channels of a run.
    pub(super) fn tiles_per_run(&self) -> usize {
        block(self.packing.bits) / CHANNELS
    }

    /// Tiles of LHS rows of a stage.
    pub(super) fn tiles(&self) -> usize {
        self.runs * self.tiles_per_run()
    }

    /// Bytes of a tile of LHS rows.
    pub(super) fn tile_bytes(&self) -> usize {
        self.stages.lhs_rows * ROW_BYTES
    }

    pub(super) fn stage_bytes(&self) -> usize {
        self.weight_bytes() + self.tiles() * self.tile_bytes()
    }

    /// Channels of a stage.
    pub(super) fn channels(&self) -> usize {
        self.runs * block(self.packing.bits)
    }

    /// Stages whose copies have begun before the first one is multiplied: all but that one.
    pub(super) fn ahead(&self) -> usize {
        self.stages.stages - 1
    }

    /// Shared memory in copies: room to begin at a multiple of [`ALIGNMENT`], and for what planes read behind the
    /// last weight row, in vain.
    pub(super) fn shared(&self) -> usize {
        (ALIGNMENT + self.stages.stages * self.stage_bytes() + GROUP_BYTES) / 16
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::super::{super::warpgroup::fixture::SHARED_MEMORY, Epilogue},
        *,
    };

    #[test]
    fn every_shape_fits_and_groups_have_runs() {
        for bits in [4, 8] {
            let packing = Packing {
                bits,
                group: 128,
                ..Packing::WHOLE
            };
            for lhs_rows in [9, 16, 17, 64, 100, 128] {
                for columns in [1, 34, 130, 4096, 6144, 14_336, 128_256] {
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
                                channels: 4096,
                                epilogue,
                            };
                            let shape = PackedShape::new(&sizes, packing, DType::F16);
                            let what = format!("{shape:?}");
                            assert!(16 * shape.shared() <= SHARED_MEMORY, "{what}");
                            assert!(shape.stages.stages >= MIN_STAGES, "{what}");
                            assert!(shape.runs_of_group() >= 1, "{what}");
                            assert!(shape.units() <= 4 * 128, "{what}");
                            assert!(
                                shape.lines() > 0 && shape.lines().is_multiple_of(2),
                                "{what}"
                            );
                            // Sums of the groups but the first lie where stages were.
                            let sums =
                                (shape.split - 1) * shape.stages.units() * shape.stages.sums();
                            assert!(4 * sums <= 16 * shape.shared() - ALIGNMENT, "{what}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn segments_are_whole_blocks_and_no_fewer_than_eight() {
        let segments = |bits, sizes| segmentation(bits).segments(132, sizes);
        assert_eq!(segments(4, [16, 4096, 4096]), 1);
        assert_eq!(segments(4, [64, 4096, 4096]), 4);
        assert_eq!(segments(4, [64, 6144, 4096]), 4);
        assert_eq!(segments(4, [64, 28_672, 4096]), 1);
        // A block has 128 channels, of 8 bits 64.
        assert_eq!(segments(4, [64, 32, 1024]), 1);
        assert_eq!(segments(8, [64, 32, 1024]), 2);
        assert_eq!(segments(4, [64, 32, 2048]), 2);
        // An odd number of blocks.
        assert_eq!(segments(4, [64, 32, 2176]), 1);
        assert_eq!(segments(8, [64, 32, 1088]), 1);
    }
}
