//! How a product is cut into tiles.

use burn::tensor::DType;
use cubecl::ir::HardwareProperties;

use super::{
    super::{
        super::{
            matrix_instruction::{COLUMNS, PLANE, ROWS},
            ptx::ptx_name,
        },
        staged::{Staging, WIDTH},
    },
    instructions::{LOADED, SUMS},
};

/// What the kernel is compiled for: a cube multiplies a tile of rows by a tile of weight rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tiles {
    /// Planes next to each other along the rows, and along the weight rows.
    pub planes: [usize; 2],
    /// Rows and weight rows of a plane, multiples of 16.
    pub plane: [usize; 2],
    /// Copies of 16 bytes of a row in a step, four or eight.
    pub parts: usize,
    /// Tiles in shared memory: one is multiplied, the others are copied.
    pub stages: usize,
    /// Tiles of rows that pass a tile of weight rows one after the other, while it is in the cache.
    pub band: usize,
    /// As PTX calls it.
    pub dtype: &'static str,
}

/// What tiles there are.
struct Size {
    planes: [usize; 2],
    plane: [usize; 2],
    parts: usize,
    /// Stages, where shared memory has room for them.
    stages: usize,
    /// Cubes that a multiprocessor should have room for, so that one multiplies while another waits.
    at_once: usize,
}

/// The largest first, which do most work for each byte of shared memory.
const SIZES: [Size; 5] = [
    // 128 x 256, 64 channels.
    Size {
        planes: [2, 4],
        plane: [64, 64],
        parts: 8,
        stages: 3,
        at_once: 1,
    },
    // 128 x 256, 32 channels: for devices with less than 144 KiB.
    Size {
        planes: [2, 4],
        plane: [64, 64],
        parts: 4,
        stages: 4,
        at_once: 1,
    },
    // 128 x 128, 32 channels.
    Size {
        planes: [2, 2],
        plane: [64, 64],
        parts: 4,
        stages: 4,
        at_once: 2,
    },
    // 64 x 128, 64 channels.
    Size {
        planes: [2, 2],
        plane: [32, 64],
        parts: 8,
        stages: 4,
        at_once: 1,
    },
    // 64 x 64, 64 channels.
    Size {
        planes: [2, 2],
        plane: [32, 32],
        parts: 8,
        stages: 6,
        at_once: 1,
    },
];
/// Sizes of tiles.
pub(in super::super) const N_SIZES: usize = SIZES.len();

/// Tiles of a size as people read them: rows, weight rows and channels of a step.
pub(in super::super) fn name(size: usize) -> String {
    let Size {
        planes,
        plane,
        parts,
        ..
    } = SIZES[size];
    let [rows, columns] = [0, 1].map(|side| planes[side] * plane[side]);
    format!("{rows}x{columns}x{}", parts * WIDTH)
}

/// With fewer than three stages nothing would be on its way while a tile is multiplied.
const LEAST_STAGES: usize = 3;
/// Shared memory that the driver takes of each cube.
const RESERVED: usize = 1 << 10;

impl Tiles {
    /// Large tiles do most work for each byte of shared memory, as long as they keep most of the device busy; where no
    /// tiles do, the smallest that fit are the most.
    pub(super) fn of(
        shape: [usize; 2],
        multiprocessors: usize,
        hardware: &HardwareProperties,
        dtype: DType,
    ) -> Option<Self> {
        let enough = multiprocessors * 2 / 3;
        let mut smallest = None;
        for size in 0..N_SIZES {
            let tiles = Self::of_size(size, hardware, dtype);
            if tiles.is_some_and(|tiles| tiles.cubes(shape) >= enough) {
                return tiles;
            }
            smallest = tiles.or(smallest);
        }
        smallest
    }

    /// Tiles of a size, by its place among all, where a device has room for them.
    pub(super) fn of_size(
        size: usize,
        hardware: &HardwareProperties,
        dtype: DType,
    ) -> Option<Self> {
        let Size {
            planes,
            plane,
            parts,
            stages,
            at_once,
        } = SIZES[size];
        let tiles = |stages| Self {
            planes,
            plane,
            parts,
            stages,
            band: 8,
            dtype: ptx_name(dtype),
        };
        // What a cube may have at most is what a multiprocessor has, less what is taken of one cube.
        let room = (hardware.max_shared_memory_size + RESERVED) / at_once;
        (LEAST_STAGES..=stages).rev().map(tiles).find(|tiles| {
            tiles.staging().bytes() + RESERVED <= room
                && tiles.units() <= hardware.max_units_per_cube as usize
        })
    }

    /// Where the tiles lie.
    pub(super) fn staging(&self) -> Staging {
        let [rows, columns] = self.tile();
        Staging {
            rows,
            columns,
            units: self.units(),
            parts: self.parts,
            stages: self.stages,
        }
    }

    /// Rows and weight rows of a tile.
    pub(super) fn tile(&self) -> [usize; 2] {
        [0, 1].map(|side| self.planes[side] * self.plane[side])
    }

    pub(super) fn units(&self) -> usize {
        self.planes[0] * self.planes[1] * PLANE
    }

    /// Tiles of `[rows, columns]`, a cube each.
    pub(super) fn cubes(&self, [rows, columns]: [usize; 2]) -> usize {
        let [tile_rows, tile_columns] = self.tile();
        rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns)
    }

    /// Tiles whose copies are under way while one is multiplied.
    pub(super) fn ahead(&self) -> usize {
        self.stages - 1
    }

    /// Times 16 channels of a step.
    pub(super) fn slices(&self) -> usize {
        self.parts / 2
    }

    /// Loads of a plane for 16 channels of its rows, and of its weight rows.
    pub(super) fn loads(&self) -> [usize; 2] {
        self.plane.map(|rows| rows / ROWS)
    }

    /// Words of a unit for 16 channels.
    pub(super) fn words(&self) -> usize {
        self.loads().iter().sum::<usize>() * LOADED
    }

    /// Sums of a unit.
    pub(super) fn sums(&self) -> usize {
        self.sums_of_rows() * self.loads()[0]
    }

    /// Sums of a unit for 16 rows.
    pub(super) fn sums_of_rows(&self) -> usize {
        self.plane[1] / COLUMNS * SUMS
    }
}
