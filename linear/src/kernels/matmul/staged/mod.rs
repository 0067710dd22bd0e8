//! Products on tiles that copies bring into stages of shared memory while others are multiplied: what the kernels by
//! warpgroup instructions and by those of a plane have in common.

mod copies;
mod outputs;

use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};

pub(super) use self::{
    copies::{
        Copies, copies_of_unit, copy_rows, copy_weight, has_step, part_of_step, place_of_part,
    },
    outputs::write,
};

/// Elements of a copy of 16 bytes.
pub(super) const WIDTH: usize = 8;

/// Tiles in shared memory: of rows, and of weight rows after them, in every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Staging {
    /// Rows of a tile.
    pub rows: usize,
    /// Weight rows of a tile, which are outputs.
    pub columns: usize,
    /// Units of a cube.
    pub units: usize,
    /// Copies of a row of a tile, four or eight.
    pub parts: usize,
    pub stages: usize,
}

impl Staging {
    /// Channels of a step.
    pub(super) fn step(&self) -> usize {
        self.parts * WIDTH
    }

    /// Bytes of a row of a tile.
    pub(super) fn row_bytes(&self) -> usize {
        self.parts * 16
    }

    /// Rows that a cube copies at once.
    pub(super) fn lines(&self) -> usize {
        self.units / self.parts
    }

    /// Copies of a unit for a tile of rows, and for one of weight rows.
    pub(super) fn copies(&self) -> [usize; 2] {
        [self.rows / self.lines(), self.columns / self.lines()]
    }

    /// Bytes of a tile of rows.
    pub(super) fn row_tile(&self) -> usize {
        self.rows * self.row_bytes()
    }

    /// Bytes of a stage.
    pub(super) fn stage_bytes(&self) -> usize {
        self.row_tile() + self.columns * self.row_bytes()
    }

    /// Bytes of all stages.
    pub(super) fn bytes(&self) -> usize {
        self.stages * self.stage_bytes()
    }
}

/// Channels next to each other, and rows at multiples of 16 bytes. CUDA leaves gaps between the rows of
/// some tensors, which do no harm.
pub(super) fn row_major(tensor: CubeTensor) -> CubeTensor {
    let [row, channel] = [0, 1].map(|axis| tensor.meta.strides()[axis]);
    match channel == 1 && row.is_multiple_of(WIDTH) {
        true => tensor,
        false => into_contiguous(tensor),
    }
}
