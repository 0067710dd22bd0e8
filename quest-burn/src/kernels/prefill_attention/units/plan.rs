//! How a cube is laid out, by what its shared memory holds.

use burn::tensor::DType;
use cubecl::ir::HardwareProperties;

/// Units that share query tokens: each takes every eighth key of a tile, and every eighth vector of
/// the output.
pub(super) const LANES: usize = 8;
/// Query tokens of a unit.
pub(super) const ROWS: usize = 4;
/// Units that share the softmax of a token.
pub(super) const SOFTMAX_LANES: usize = LANES / ROWS;
/// Bytes of a number in shared memory.
const BYTES: usize = 4;
/// Shared memory of a cube where the device has more: several cubes have to fit on a multiprocessor.
const MOST_BYTES: usize = 64 * 1024;
/// Query tokens and keys of a tile, the best first: keys are read from device memory once for all
/// tokens, and a unit's registers serve its tokens with more keys at a time.
const TILES: [(usize, usize); 7] = [
    (64, 32),
    (64, 16),
    (32, 32),
    (32, 16),
    (32, 8),
    (16, 16),
    (16, 8),
];

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct UnitsShape {
    pub head_dim: usize,
    /// Channels of a vector.
    pub width: usize,
    pub page_size: usize,
    /// Query tokens of a cube.
    pub tokens: usize,
    /// Keys of a tile.
    pub keys: usize,
}

impl UnitsShape {
    /// The best shape whose tiles the device holds, if any.
    pub(super) fn plan(
        hardware: &HardwareProperties,
        head_dim: usize,
        page_size: usize,
    ) -> Option<Self> {
        let room = hardware.max_shared_memory_size;
        let most_units = hardware.max_units_per_cube as usize;
        Self::within(room, most_units, head_dim, page_size)
    }

    fn within(room: usize, most_units: usize, head_dim: usize, page_size: usize) -> Option<Self> {
        TILES
            .into_iter()
            .map(|(tokens, keys)| Self {
                head_dim,
                width: 4.min(1 << head_dim.trailing_zeros()),
                page_size,
                tokens,
                keys,
            })
            .find(|shape| shape.bytes() <= room.min(MOST_BYTES) && shape.units() <= most_units)
    }

    pub(super) fn units(&self) -> usize {
        self.tokens / ROWS * LANES
    }

    /// Vectors of a row.
    pub(super) fn vectors(&self) -> usize {
        self.head_dim / self.width
    }

    /// Vectors from a row in shared memory to the next: one more than it has, so that neighbouring
    /// rows lie in different banks.
    pub(super) fn stride(&self) -> usize {
        self.vectors() + 1
    }

    /// Numbers from the scores of a token to those of the next.
    pub(super) fn score_stride(&self) -> usize {
        self.keys + 1
    }

    /// Keys of a unit.
    pub(super) fn own_keys(&self) -> usize {
        self.keys / LANES
    }

    /// Vectors of the output that a unit sums up, the last of which may be past the row.
    pub(super) fn own_vectors(&self) -> usize {
        self.vectors().div_ceil(LANES)
    }

    fn bytes(&self) -> usize {
        let rows = (self.tokens + self.keys) * self.stride() * self.width;
        let scores = self.tokens * self.score_stride();
        (rows + scores + self.tokens) * BYTES
    }
}

/// Whether a device holds a tile of such heads.
pub(in super::super) fn supports(
    hardware: &HardwareProperties,
    dtype: DType,
    head_dim: usize,
) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        && head_dim > 0
        && hardware.plane_size_min as usize >= SOFTMAX_LANES
        && UnitsShape::plan(hardware, head_dim, 1).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB_GPU: usize = 16 * 1024;
    const METAL: usize = 32 * 1024;
    const VULKAN: usize = 48 * 1024;

    #[test]
    fn heads_of_128_channels_have_a_tile_on_every_device() {
        for room in [WEB_GPU, METAL, VULKAN] {
            for head_dim in [16, 24, 64, 80, 96, 128] {
                let shape = UnitsShape::within(room, 256, head_dim, 16).unwrap();
                assert!(shape.bytes() <= room, "{shape:?}");
            }
        }
    }

    #[test]
    fn more_room_gives_more_work_to_a_cube() {
        let work = |room| {
            let shape = UnitsShape::within(room, 256, 128, 16).unwrap();
            shape.tokens * shape.keys
        };
        assert!(work(WEB_GPU) < work(METAL));
        assert!(work(METAL) < work(VULKAN));
        assert!(work(VULKAN) < work(4 * VULKAN));
    }

    #[test]
    fn a_head_beyond_the_room_has_no_tile() {
        assert_eq!(UnitsShape::within(WEB_GPU, 256, 512, 16), None);
    }
}
