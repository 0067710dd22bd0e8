//! How a product is cut into tiles for the planes of a cube, and by which instruction.

use cubecl::ir::{DeviceProperties, ElemType};

use super::super::super::cooperative_matrix::{ALIGNMENT, Fragment, Instruction, WIDTH};

/// Elements of half precision between rows in shared memory: they stay aligned, and neighbouring rows lie in
/// different banks.
const PADDING: usize = ALIGNMENT / 2;

/// What the kernel is compiled for: a cube multiplies a tile of rows by a tile of weight rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tiles {
    pub instruction: Instruction,
    /// Planes next to each other along the rows, and along the columns.
    pub planes: [usize; 2],
    /// Rows of a tile.
    pub rows: usize,
    /// Weight rows of a tile, which are outputs.
    pub columns: usize,
    /// Channels of a step.
    pub step: usize,
    /// Elements of a word: both sides are copied in vectors of words.
    pub packed: usize,
    /// Whether steps cut the channels evenly.
    pub whole: bool,
    /// Tiles of rows that pass a tile of weight rows one after the other, while it is in the cache.
    pub band: usize,
}

/// Rows, columns, channels of a step and planes of the tiles, with the number of tiles from which on they are taken:
/// on an H200, of 512 tiles the first are 5 % faster than the second, of 128 they are 33 % slower; of 96 the second
/// are 18 % faster than the third.
const SIZES: [([usize; 3], [usize; 2], usize); 3] = [
    ([128, 128, 32], [2, 2], 512),
    ([128, 128, 64], [2, 4], 96),
    ([64, 64, 64], [2, 2], 0),
];

impl Tiles {
    /// The tiles for a product of `[rows, outputs, channels]`, where a device has the instructions and the kernel
    /// takes the shape.
    pub(crate) fn of(
        properties: &DeviceProperties,
        element: ElemType,
        [n, d_output, d_input]: [usize; 3],
    ) -> Option<Self> {
        let hardware = &properties.hardware;
        let instruction = Instruction::of(properties, element)?;
        SIZES
            .into_iter()
            .find_map(|([rows, columns, step], planes, least)| {
                let tiles = Self {
                    instruction,
                    planes,
                    rows,
                    columns,
                    step,
                    packed: 2,
                    whole: d_input.is_multiple_of(step),
                    band: 16,
                };
                let fits = tiles.is_even(d_input, d_output)
                    && tiles.units() <= hardware.max_units_per_cube as usize
                    && tiles.bytes() <= hardware.max_shared_memory_size
                    && tiles.cubes([n, d_output]) >= least;
                fits.then_some(tiles)
            })
    }

    /// Whether instructions cut tiles evenly, and vectors rows.
    fn is_even(&self, d_input: usize, d_output: usize) -> bool {
        let Fragment { m, n, k } = self.instruction.fragment;
        let [along_rows, along_columns] = self.planes;
        let copies = [self.rows, self.columns].map(|rows| rows * self.parts());
        d_input > 0
            && d_input.is_multiple_of(self.part())
            && d_output.is_multiple_of(WIDTH)
            && k.is_multiple_of(self.part())
            && self.step.is_multiple_of(k)
            && self.rows.is_multiple_of(along_rows * m)
            && self.columns.is_multiple_of(along_columns * n)
            && self.units().is_multiple_of(self.parts())
            && copies.iter().all(|n| n.is_multiple_of(self.units()))
    }

    fn bytes(&self) -> usize {
        let staged = (self.rows + self.columns) * self.stride() * 2;
        let planes = self.planes[0] * self.planes[1];
        let Fragment { m, n, .. } = self.instruction.fragment;
        staged + planes * m * n * 4
    }

    pub(crate) fn units(&self) -> usize {
        self.planes[0] * self.planes[1] * self.instruction.plane
    }

    /// Tiles of `[rows, columns]`, a cube each.
    pub(crate) fn cubes(&self, [rows, columns]: [usize; 2]) -> usize {
        rows.div_ceil(self.rows) * columns.div_ceil(self.columns)
    }

    /// Fragments of a plane along the rows and along the columns.
    pub(crate) fn fragments(&self) -> [usize; 2] {
        [
            self.rows / self.planes[0] / self.instruction.fragment.m,
            self.columns / self.planes[1] / self.instruction.fragment.n,
        ]
    }

    /// Elements from a row in shared memory to the next.
    pub(crate) fn stride(&self) -> usize {
        self.step + PADDING
    }

    /// Elements of a vector of words.
    pub(crate) fn part(&self) -> usize {
        WIDTH * self.packed
    }

    /// Vectors that a cube loads of a row in a step.
    pub(crate) fn parts(&self) -> usize {
        self.step / self.part()
    }

    /// Vectors of a unit for a step of `rows` rows.
    pub(crate) fn loads(&self, rows: usize) -> usize {
        rows * self.parts() / self.units()
    }

    /// Vectors in shared memory for `rows` rows.
    pub(crate) fn staged(&self, rows: usize) -> usize {
        rows * self.stride() / self.part()
    }
}
