//! How a cube is laid out, by the instructions of the device and what its shared memory holds.

use cubecl::ir::{DeviceProperties, ElemType};

use super::super::super::cooperative_matrix::{ALIGNMENT, Fragment, Instruction, WIDTH};

/// Planes, query tokens of a plane and keys of a tile, the best first.
const SHAPES: [(usize, usize, usize); 4] = [(4, 32, 32), (4, 16, 32), (4, 16, 16), (4, 8, 16)];
/// Output channels of a plane's tokens, for each unit, that stay in registers.
const MOST_SUMS: usize = 128;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CooperativeShape {
    pub head_dim: usize,
    pub page_size: usize,
    pub instruction: Instruction,
    pub planes: usize,
    /// Fragments of query tokens of a plane: keys and values that it reads serve them all.
    pub fragments: usize,
    /// Keys of a tile.
    pub keys: usize,
    /// Elements of a word: keys and values are copied in vectors of words.
    pub packed: usize,
    /// Whether the next tile is on its way while one is folded.
    pub ahead: bool,
    /// Bytes of shared memory that nothing uses.
    pub spare: usize,
}

impl CooperativeShape {
    /// The same with keys and values copied in words of two elements, where `words` says so: rows are then
    /// known to lie at multiples of 16 bytes.
    pub fn packed(self, words: bool) -> Self {
        let packed = Self { packed: 2, ..self };
        match words && packed.is_even() {
            true => packed,
            false => self,
        }
    }

    /// Whether vectors of words cut rows and instructions evenly.
    fn is_even(&self) -> bool {
        let part = self.part();
        let Fragment { n, k, .. } = self.instruction.fragment;
        [self.head_dim, n, k]
            .iter()
            .all(|size| size.is_multiple_of(part))
            && (self.keys / part).is_multiple_of(self.lanes())
    }

    pub fn units(&self) -> usize {
        self.planes * self.instruction.plane
    }

    /// Query tokens of a plane.
    pub fn rows(&self) -> usize {
        self.fragments * self.instruction.fragment.m
    }

    /// Query tokens of a cube.
    pub fn tokens(&self) -> usize {
        self.planes * self.rows()
    }

    /// Elements of a vector of words.
    pub fn part(&self) -> usize {
        WIDTH * self.packed
    }

    /// Vectors of words of a row of keys.
    pub fn parts(&self) -> usize {
        self.head_dim / self.part()
    }

    /// Elements from a row of keys in shared memory to the next: neighbouring rows lie in different banks.
    pub fn stride(&self) -> usize {
        self.head_dim + ALIGNMENT / 2
    }

    /// Numbers from the scores of a token to those of the next.
    pub fn score_stride(&self) -> usize {
        self.keys.max(self.instruction.fragment.n) + ALIGNMENT / 4
    }

    /// Elements from the weights of a token to those of the next.
    pub fn weight_stride(&self) -> usize {
        self.keys + ALIGNMENT / 2
    }

    /// Instructions along the channels of a score.
    pub fn steps(&self) -> usize {
        self.head_dim / self.instruction.fragment.k
    }

    /// Instructions along the output of a token.
    pub fn columns(&self) -> usize {
        self.head_dim / self.instruction.fragment.n
    }

    /// Units that share a token's softmax.
    pub fn lanes(&self) -> usize {
        (self.instruction.plane / self.rows()).max(1)
    }

    /// Tokens of a unit.
    pub fn own_rows(&self) -> usize {
        (self.rows() / self.instruction.plane).max(1)
    }

    /// Vectors of scores of a unit, for each of its tokens.
    pub fn own_scores(&self) -> usize {
        self.keys / WIDTH / self.lanes()
    }

    /// Vectors of keys, and of values, that a unit loads for a tile.
    pub fn loads(&self) -> usize {
        (self.keys * self.parts()).div_ceil(self.units())
    }

    pub fn bytes(&self) -> usize {
        let tiles = 2 * self.keys * self.stride() * 2;
        let scores = self.tokens() * self.score_stride() * 4;
        let weights = self.tokens() * self.weight_stride() * 2;
        tiles + scores + weights + self.spare
    }

    pub fn fits(&self, properties: &DeviceProperties) -> bool {
        let Fragment { m, n, k } = self.instruction.fragment;
        let hardware = &properties.hardware;
        let rows = self.rows();
        self.fragments > 0
            && rows * self.head_dim <= MOST_SUMS * self.instruction.plane
            && self.head_dim.is_multiple_of(n)
            && self.head_dim.is_multiple_of(k)
            && self.keys.is_multiple_of(n)
            && self.keys.is_multiple_of(k)
            && self.keys.is_multiple_of(m)
            && self.tokens().is_multiple_of(self.keys)
            && (self.instruction.plane.is_multiple_of(rows)
                || rows.is_multiple_of(self.instruction.plane))
            && self.is_even()
            && self.units() <= hardware.max_units_per_cube as usize
            && self.bytes() <= hardware.max_shared_memory_size
    }

    /// The shape for a device and an element type, if the kernel runs there.
    pub fn plan(
        properties: &DeviceProperties,
        element: ElemType,
        head_dim: usize,
        page_size: usize,
    ) -> Option<Self> {
        let instruction = Instruction::of(properties, element)?;
        SHAPES
            .iter()
            .map(|&(planes, rows, keys)| Self {
                head_dim,
                page_size,
                instruction,
                planes,
                fragments: rows / instruction.fragment.m,
                keys,
                packed: 1,
                ahead: false,
                spare: 0,
            })
            .find(|shape| shape.fits(properties))
    }
}
