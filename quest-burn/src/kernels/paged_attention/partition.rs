use cubecl::ir::HardwareProperties;

use super::super::row::RowLayout;

/// Units of a cube.
const UNITS: usize = 256;
/// Tokens that a run of lanes has in flight, keys and values each.
const IN_FLIGHT: usize = 4;
/// Cubes that a multiprocessor is meant to hold.
const CUBES_PER_MULTIPROCESSOR: usize = 2;
/// Splits of a head that the merge can hold.
pub(super) const MAX_SPLITS: usize = 512;
/// Splits that the merge reads at a time.
const MERGE_ROWS: usize = 4;
/// Channels of queries that a unit keeps in registers, and as many of outputs.
const QUERY_REGISTERS: usize = 64;
/// Shared memory that a cube may take, so that several fit on a multiprocessor.
const SHARED_BYTES: usize = 32 * 1024;

/// How the pages of a head are split over cubes.
///
/// The pages of a split depend on the number of pages that a sequence reads and on nothing else of
/// the list: attention over a list of all pages is the same computation as over all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// Query heads of a cube.
    pub heads: usize,
    pub units: usize,
    pub in_flight: usize,
    /// Pages of a split, at least.
    pub min_pages: usize,
    /// Splits of a head, at most.
    pub max_splits: usize,
    /// Splits that a cube of the merge reads at a time.
    pub merge_rows: usize,
}

impl Partition {
    /// `group` query heads read each of the `list_heads` page lists of a sequence.
    pub fn new(
        layout: &RowLayout,
        hardware: &HardwareProperties,
        multiprocessors: usize,
        batch: usize,
        group: usize,
        list_heads: usize,
        page_size: usize,
    ) -> Self {
        let channels = layout.vectors * layout.width;
        let head_dim = layout.row_vectors() * layout.width;
        let heads = (1..=group)
            .rev()
            .find(|&heads| group.is_multiple_of(heads) && heads * channels <= QUERY_REGISTERS)
            .unwrap_or(1);
        let in_flight = (IN_FLIGHT / layout.vectors).max(1);
        let head_bytes = (head_dim + 2) * size_of::<f32>();
        let shared = hardware.max_shared_memory_size.min(SHARED_BYTES);
        let mut units = UNITS.min(hardware.max_units_per_cube as usize);
        while units > layout.plane && (units / layout.plane) * heads * head_bytes > shared {
            units /= 2;
        }
        let cubes = CUBES_PER_MULTIPROCESSOR * multiprocessors;
        Self {
            heads,
            units,
            in_flight,
            min_pages: (units / layout.lanes * in_flight).div_ceil(page_size),
            max_splits: (cubes / (batch * list_heads * (group / heads))).clamp(1, MAX_SPLITS),
            merge_rows: (hardware.max_units_per_cube as usize / head_dim).clamp(1, MERGE_ROWS),
        }
    }

    /// Splits that sequences of up to `bound` pages can need.
    pub fn n_splits(&self, bound: usize) -> usize {
        bound.div_ceil(self.min_pages).clamp(1, self.max_splits)
    }
}
