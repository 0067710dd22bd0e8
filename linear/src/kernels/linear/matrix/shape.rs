use burn::tensor::DType;
use cubecl::ir::DeviceProperties;

use super::super::{
    super::matrix_instruction::{PLANE, ROWS, takes_bytes},
    Epilogue, Packing,
};

/// Cubes that a multiprocessor is meant to hold.
pub(super) const CUBES_PER_MULTIPROCESSOR: usize = 2;

/// Planes of a cube, which share the input channels of its weight rows.
pub(super) const PLANES: usize = 8;
/// Lanes that share a row of an instruction, and lanes that share a column.
pub(super) const LANES: usize = 4;
/// Words of a load.
pub(super) const WORDS: usize = 4;
/// Channels of a vector of an LHS row.
pub(super) const WIDTH: usize = 8;
/// Channels of an LHS row whose digits of one place fill a vector of words.
pub(super) const PIECE: usize = 4 * WORDS;
/// Digits of a channel of an LHS row, of which each takes a column.
pub(super) const DIGITS: usize = 2;
/// LHS rows that the columns of an instruction have room for.
const MAX_SIDES: usize = 4;
/// Loads of a unit in flight, of two rows each.
const IN_FLIGHT: usize = 4;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct MatrixShape {
    pub lhs_rows: usize,
    pub d_input: usize,
    pub normed: bool,
    pub packing: Packing,
    pub epilogue: Epilogue,
}

impl MatrixShape {
    /// None where the kernel cannot take a layer: LHS rows have to be of half precision, as they are
    /// rounded, and to lie in shared memory; a load has to be 16 bytes, and the loads of a row's
    /// lanes have to lie within a group.
    pub(crate) fn of(
        properties: &DeviceProperties,
        dtype: DType,
        [lhs_rows, d_input]: [usize; 2],
        normed: bool,
        packing: Packing,
        epilogue: Epilogue,
    ) -> Option<Self> {
        let shape = Self {
            lhs_rows,
            d_input,
            normed,
            packing,
            epilogue,
        };
        let room = properties.hardware.max_shared_memory_size / CUBES_PER_MULTIPROCESSOR;
        let fits = matches!(dtype, DType::F16 | DType::BF16)
            && takes_bytes(properties, PLANES * PLANE)
            && packing.words() == WORDS
            && packing.group.is_multiple_of(shape.block())
            && d_input.is_multiple_of(shape.block())
            && shape.shared_bytes() <= room;
        fits.then_some(shape)
    }

    fn shared_bytes(&self) -> usize {
        let sums = PLANES + 2 * self.blocks() + 2 * PLANES * ROWS;
        self.lhs_rows * (DIGITS * self.d_input + sums * size_of::<f32>())
    }

    /// Input channels of a row of an instruction's load; they have one scale.
    pub(crate) fn block(&self) -> usize {
        LANES * self.packing.per_load()
    }

    pub(crate) fn blocks(&self) -> usize {
        self.d_input / self.block()
    }

    /// Neighbouring blocks of a weight row that an instruction takes, each with columns of its own.
    pub(crate) fn chunks(&self) -> usize {
        MAX_SIDES / self.lhs_rows.next_power_of_two().min(MAX_SIDES)
    }

    /// LHS rows of an instruction.
    pub(crate) fn sides(&self) -> usize {
        MAX_SIDES / self.chunks()
    }

    /// Instructions that share weights, for further LHS rows.
    pub(crate) fn tiles(&self) -> usize {
        self.lhs_rows.div_ceil(self.sides())
    }

    /// Runs of as many blocks of a row as an instruction takes: a plane takes one in turn.
    pub(crate) fn segments(&self) -> usize {
        self.blocks().div_ceil(self.chunks())
    }

    /// Weight rows of an instruction: 16 take as many instructions as there are chunks.
    pub(crate) fn rows(&self) -> usize {
        ROWS / self.chunks()
    }

    /// Output channels of the 16 weight rows that a cube reads at a time: gates lie with what they
    /// gate.
    pub(crate) fn outputs(&self) -> usize {
        ROWS / self.epilogue.per_output()
    }

    /// Stretches that a unit has in flight.
    pub(crate) fn in_flight(&self) -> usize {
        (IN_FLIGHT / self.chunks()).min(self.segments().div_ceil(PLANES))
    }

    /// Pieces of an LHS row to each load.
    pub(crate) fn pairs(&self) -> usize {
        self.packing.per_load() / PIECE
    }

    /// Pieces of an LHS row to each segment.
    pub(crate) fn segment_pieces(&self) -> usize {
        self.chunks() * self.block() / PIECE
    }

    /// The channel of a piece that comes at a byte of a word of digits: of a word of weights of 4 bits one
    /// mask keeps every second one.
    pub(crate) fn channel(&self, word: usize, byte: usize) -> usize {
        match self.packing.bits {
            4 => word / 2 * 8 + word % 2 + 2 * byte,
            _ => word * 4 + byte,
        }
    }

    /// What the sums of integers are times: a mask keeps half of the weights of 4 bits where they are.
    pub(crate) fn factor(&self) -> f32 {
        if self.packing.bits == 4 { 16.0 } else { 1.0 }
    }
}
