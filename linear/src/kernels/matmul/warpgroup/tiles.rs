//! How a product is cut into tiles.

use burn::tensor::DType;

use super::super::{
    super::warpgroup::{ALIGNMENT, GROUP_ROWS, GROUP_UNITS, PARTS, ptx_name},
    staged::Staging,
};

/// What the kernel is compiled for: a cube multiplies a tile of rows by a tile of weight rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tiles {
    /// Groups of four planes, each with rows of its own.
    pub groups: usize,
    /// Weight rows of a tile, which are outputs.
    pub columns: usize,
    /// Tiles in shared memory: one is multiplied, the last one may be, the others are copied.
    pub stages: usize,
    /// Tiles of rows that pass a tile of weight rows one after the other, while it is in the cache.
    pub band: usize,
    /// As PTX calls it.
    pub dtype: &'static str,
}

impl Tiles {
    /// Large tiles do most work for each byte of shared memory, as long as they keep most of the device
    /// busy; where no tiles do, the smallest are the most.
    pub(super) fn of(shape: [usize; 2], multiprocessors: usize, dtype: DType) -> Self {
        let sizes = [(2, 256, 4), (1, 256, 5), (1, 128, 8)];
        let [large, medium, small] = sizes.map(|(groups, columns, stages)| Self {
            groups,
            columns,
            stages,
            band: 8,
            dtype: ptx_name(dtype),
        });
        // On an H100, 96 tiles of the largest are faster than twice as many smaller ones, 64 slower.
        let enough = multiprocessors * 3 / 5;
        [large, medium]
            .into_iter()
            .find(|tiles| tiles.cubes(shape) >= enough)
            .unwrap_or(small)
    }

    pub(super) fn rows(&self) -> usize {
        self.groups * GROUP_ROWS
    }

    pub(super) fn units(&self) -> usize {
        self.groups * GROUP_UNITS
    }

    /// Tiles of `[rows, columns]`, a cube each.
    pub(super) fn cubes(&self, [rows, columns]: [usize; 2]) -> usize {
        rows.div_ceil(self.rows()) * columns.div_ceil(self.columns)
    }

    /// Where the tiles lie.
    pub(super) fn staging(&self) -> Staging {
        Staging {
            rows: self.rows(),
            columns: self.columns,
            units: self.units(),
            parts: PARTS,
            stages: self.stages,
        }
    }

    /// Shared memory in copies, with room to begin at a multiple of [`ALIGNMENT`].
    pub(super) fn shared(&self) -> usize {
        (self.staging().bytes() + ALIGNMENT) / 16
    }

    /// Tiles whose copies have begun before the first one is multiplied.
    pub(super) fn ahead(&self) -> usize {
        self.stages - 2
    }

    /// Sums of a unit.
    pub(super) fn sums(&self) -> usize {
        GROUP_ROWS * self.columns / GROUP_UNITS
    }
}
