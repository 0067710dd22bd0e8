use cubecl::ir::HardwareProperties;

use super::{
    super::row::RowLayout,
    matrix::{self, MatrixShape},
    split::{Chunk, Shape},
};

/// Units of a cube.
const UNITS: usize = 256;
/// Tokens that a run of lanes has in flight, keys and values each.
const IN_FLIGHT: usize = 4;
/// Cubes that a multiprocessor is meant to hold.
const CUBES_PER_MULTIPROCESSOR: usize = 2;
/// The same for the kernel with matrix instructions, with one and two groups of 8 query heads;
/// register-bound.
const MATRIX_CUBES_PER_MULTIPROCESSOR: [usize; 2] = [3, 2];
/// Tokens of a split above which sequences of a batch are split further: such a sequence may be the longest by far, and
/// then few cubes would do most of the work.
const LONG_SPLIT: usize = 1024;
/// Tokens of a split of such sequences, at least.
const FINE_SPLIT: usize = 512;
/// Times as many splits of such sequences, at most. Cubes then take turns, so there are many turns: the last one is never
/// full.
const LONG_TURNS: usize = 4;
/// Splits of a head that the merge can hold.
pub(super) const MAX_SPLITS: usize = 512;
/// Above this many splits the merge reads `MANY_MERGE_ROWS` at a time.
const MANY_SPLITS: usize = 128;
/// Splits that the merge reads at a time.
const MERGE_ROWS: usize = 8;
const MANY_MERGE_ROWS: usize = 32;
/// Most units of a merge.
const MERGE_UNITS: usize = 512;
/// Channels of queries that a unit keeps in registers, and as many of outputs.
const QUERY_REGISTERS: usize = 64;
/// Of these, at most as many where the next tokens are prefetched, which takes registers too.
const PREFETCH_REGISTERS: usize = 8;
/// Shared memory that a cube may take, so that several fit on a multiprocessor.
const SHARED_BYTES: usize = 24 * 1024;

/// The kernel that computes a split, and what it is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// Lanes share a row, query heads their keys and values.
    Lanes(Shape),
    /// Query heads are a side of matrix instructions.
    Matrix(MatrixShape),
}

impl Kernel {
    /// Query heads of a cube.
    pub(super) fn heads(&self) -> usize {
        match self {
            Self::Lanes(shape) => shape.heads,
            Self::Matrix(shape) => shape.heads,
        }
    }

    /// Tokens that a cube attends to at a time.
    fn tokens(&self) -> usize {
        match self {
            Self::Lanes(shape) => shape.units / shape.lanes * shape.in_flight,
            Self::Matrix(shape) => shape.planes * matrix::TOKENS,
        }
    }

    fn cubes_per_multiprocessor(&self) -> usize {
        match self {
            Self::Lanes(_) => CUBES_PER_MULTIPROCESSOR,
            Self::Matrix(shape) => MATRIX_CUBES_PER_MULTIPROCESSOR[shape.halves() - 1],
        }
    }
}

/// How the pages of a head are split over cubes.
///
/// The pages of a split depend on the number of pages that a sequence reads and on nothing else of
/// the list: attention over a list of all pages is the same computation as over all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub kernel: Kernel,
    /// Pages of a split, at least.
    pub min_pages: usize,
    /// Splits of a head at which a batch of equal sequences fills the device.
    pub even_splits: usize,
    /// Pages of such a split, at most; where they would be more, a head has more splits, of `fine_pages` at least.
    pub long_pages: usize,
    pub fine_pages: usize,
    /// Splits of a head, at most.
    pub max_splits: usize,
}

impl Partition {
    /// `group` query heads read each of the `list_heads` page lists of a sequence.
    pub(super) fn new(
        kernel: Kernel,
        multiprocessors: usize,
        batch: usize,
        group: usize,
        list_heads: usize,
        page_size: usize,
    ) -> Self {
        let cubes = kernel.cubes_per_multiprocessor() * multiprocessors;
        let rows = batch * list_heads * (group / kernel.heads());
        let even_splits = (cubes / rows).clamp(1, MAX_SPLITS);
        let turns = if batch > 1 { LONG_TURNS } else { 1 };
        Self {
            kernel,
            min_pages: kernel.tokens().div_ceil(page_size),
            even_splits,
            long_pages: LONG_SPLIT.div_ceil(page_size),
            fine_pages: FINE_SPLIT.div_ceil(page_size),
            max_splits: (turns * even_splits).min(MAX_SPLITS),
        }
    }

    /// Splits that sequences of up to `bound` pages can need.
    pub(super) fn n_splits(&self, bound: usize) -> usize {
        let most = match bound.div_ceil(self.even_splits) > self.long_pages {
            true => self.max_splits,
            false => self.even_splits,
        };
        bound.div_ceil(self.min_pages).clamp(1, most)
    }
}

/// The shape of cubes the lanes of which share rows, for groups of `group` query heads; `layout` is of loads
/// that are made of `pieces` vectors.
pub(super) fn lanes_shape(
    layout: &RowLayout,
    pieces: usize,
    hardware: &HardwareProperties,
    (group, chunk): (usize, Chunk),
    page_size: usize,
) -> Shape {
    let channels = layout.vectors * layout.width;
    let head_dim = layout.row_vectors() * layout.width;
    // Several query tokens may be as many heads of a group as would take a driver minutes to compile.
    let most = match chunk {
        Some(_) => group.min(layout.lanes),
        None => group,
    };
    let heads = (1..=most)
        .rev()
        .find(|&heads| group.is_multiple_of(heads) && heads * channels <= QUERY_REGISTERS)
        .unwrap_or(1);
    let mut in_flight = (IN_FLIGHT / layout.vectors).max(1);
    let transposed = heads.is_power_of_two() && heads <= layout.lanes;
    while transposed && in_flight * heads > layout.lanes {
        in_flight /= 2;
    }
    let head_bytes = (head_dim + 2) * size_of::<f32>();
    let shared = (hardware.max_shared_memory_size / 2).min(SHARED_BYTES);
    let mut units = UNITS.min(hardware.max_units_per_cube as usize);
    while units > layout.plane && (units / layout.plane) * heads * head_bytes > shared {
        units /= 2;
    }
    Shape {
        heads,
        chunk,
        lanes: layout.lanes,
        loads: layout.vectors,
        pieces,
        plane: layout.plane,
        units,
        in_flight,
        page_size,
        head_dim,
        prefetch: heads * channels <= PREFETCH_REGISTERS,
        transposed,
    }
}

/// Splits that the merge of a head reads at a time.
///
/// It depends on nothing that differs between a list and all pages, so that both add up in the
/// same order.
pub(super) fn merge_rows(
    row_vectors: usize,
    max_splits: usize,
    hardware: &HardwareProperties,
) -> usize {
    let rows = if max_splits > MANY_SPLITS {
        MANY_MERGE_ROWS
    } else {
        MERGE_ROWS
    };
    let units = MERGE_UNITS.min(hardware.max_units_per_cube as usize);
    (units / row_vectors).clamp(1, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Partitions by either kernel for heads of 128 channels in half precision.
    fn partitions(
        batch: usize,
        group: usize,
        list_heads: usize,
        page_size: usize,
    ) -> [Partition; 2] {
        let layout = RowLayout {
            width: 8,
            lanes: 16,
            vectors: 1,
            plane: 32,
        };
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 32,
            max_shared_memory_size: 48 * 1024,
            max_cube_count: (u32::MAX, 65_535, 65_535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: Some(132),
            num_cpu_cores: None,
            last_level_cache_size: None,
            num_tensor_cores: None,
            min_tensor_cores_dim: None,
            max_vector_size: usize::MAX,
            cube_mma_reserved_shared_memory: 0,
        };
        let matrix = MatrixShape {
            heads: group,
            chunk: None,
            planes: 4,
            page_size,
            head_dim: 128,
        };
        let lanes = lanes_shape(&layout, 1, &hardware, (group, None), page_size);
        [Kernel::Lanes(lanes), Kernel::Matrix(matrix)]
            .map(|kernel| Partition::new(kernel, 132, batch, group, list_heads, page_size))
    }

    /// Pages of a split, as the kernels compute it.
    fn per_split(partition: &Partition, n_pages: usize) -> usize {
        let even = n_pages.div_ceil(partition.even_splits);
        let pages = match even > partition.long_pages {
            true => n_pages
                .div_ceil(partition.max_splits)
                .max(partition.fine_pages),
            false => even,
        };
        pages.max(partition.min_pages)
    }

    #[test]
    fn every_page_has_a_split_whatever_the_bound() {
        for (batch, group, list_heads) in [(1, 1, 32), (1, 4, 8), (16, 4, 8), (3, 7, 1)] {
            for page_size in [8, 16, 128] {
                for partition in partitions(batch, group, list_heads, page_size) {
                    for bound in [1usize, 2, 127, 128, 771, 8192, 65_536] {
                        for n_pages in [1, bound / 2 + 1, bound] {
                            let needed = n_pages.div_ceil(per_split(&partition, n_pages));
                            assert!(needed <= partition.n_splits(bound), "{partition:?} {bound}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_of_a_ragged_batch_has_many_splits_and_short_lists_have_not() {
        for partition in partitions(16, 4, 8, 8) {
            let splits = |tokens: usize| {
                let n_pages = tokens / 8;
                n_pages.div_ceil(per_split(&partition, n_pages))
            };
            let even = partition.even_splits;
            assert_eq!([splits(2048), splits(1024 * even)], [even; 2]);
            assert_eq!(splits(4096), 8, "of 512 tokens");
            assert_eq!([splits(32_768), splits(131_072)], [4 * even; 2]);
            assert_eq!(partition.n_splits(2048 / 8), even, "of a list");
        }
        let [one, _] = partitions(1, 4, 8, 8);
        assert_eq!(one.max_splits, one.even_splits);
    }

    #[test]
    fn cubes_fill_the_device_and_no_more() {
        for (group, list_heads) in [(1, 32), (4, 8)] {
            for partition in partitions(1, group, list_heads, 16) {
                assert_eq!(partition.kernel.heads(), group);
                let cubes = partition.n_splits(128) * list_heads;
                let max = 132 * partition.kernel.cubes_per_multiprocessor();
                assert!((200..=max).contains(&cubes), "{partition:?}: {cubes}");
            }
        }
    }
}
