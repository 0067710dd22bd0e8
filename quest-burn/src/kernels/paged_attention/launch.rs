use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        launch::{address_type, empty, multiprocessors, with_rows},
        matrix_instruction::PACKED,
        operands::{PageList, Places, Rows},
        row::RowLayout,
    },
    args::{ReadArgLaunch, SplitsArgLaunch},
    listed,
    matrix::{self, MatrixShape},
    merge::{self, Merge},
    partition::{self, Kernel, Partition, lanes_shape},
    split::{Chunk, SplittingLaunch},
};
use crate::cache::{CHANNELS_PER_WORD, KvStorage};

/// Words of a load of rows in 8 bits: 16 bytes. Each is a vector of channels, so that both are of this width.
const INT8_PIECES: usize = 4;

/// The cache that a query reads, ready for a launch.
struct Problem {
    query: CubeTensor,
    keys: Rows<CubeBackend>,
    values: Rows<CubeBackend>,
    places: Places<CubeBackend>,
    batch: usize,
    /// Query heads, or their query tokens where each has several.
    n_heads: usize,
    chunk: Chunk,
    n_kv_heads: usize,
    head_dim: usize,
    page_size: usize,
    layout: RowLayout,
}

impl Problem {
    fn new(
        query: CubeTensor,
        keys: Rows<CubeBackend>,
        values: Rows<CubeBackend>,
        places: Places<CubeBackend>,
        chunk: Chunk,
    ) -> Self {
        let query = into_contiguous(query);
        let (keys, values) = (keys.into_contiguous(), values.into_contiguous());
        let [batch, n_heads, head_dim] = query.meta.shape().dims::<3>();
        let [_, n_kv_heads, page_size, _] = keys.dims();
        Self {
            layout: RowLayout::of(&query),
            query,
            keys,
            values,
            places,
            batch,
            n_heads,
            chunk,
            n_kv_heads,
            head_dim,
            page_size,
        }
    }

    /// The kernel for groups of `group` query heads.
    fn kernel(&self, group: usize) -> Kernel {
        let properties = self.query.client.properties();
        let (dtype, rows) = (self.query.dtype, self.keys.storage());
        let (head_dim, page_size) = (self.head_dim, self.page_size);
        let heads = (group, self.chunk);
        if let Some(shape) = MatrixShape::new(properties, dtype, rows, heads, head_dim, page_size) {
            return Kernel::Matrix(shape);
        }
        let (layout, pieces) = match rows {
            KvStorage::Full => (self.layout, 1),
            KvStorage::Int8 => {
                let channels = INT8_PIECES * CHANNELS_PER_WORD;
                let layout =
                    RowLayout::of_vectors(head_dim / channels, channels, self.layout.plane);
                (layout, INT8_PIECES)
            }
        };
        let hardware = &properties.hardware;
        Kernel::Lanes(lanes_shape(&layout, pieces, hardware, heads, page_size))
    }

    /// The partition for `list_heads` page lists per sequence.
    fn partition(&self, list_heads: usize) -> Partition {
        let group = self.n_heads / list_heads;
        Partition::new(
            self.kernel(group),
            multiprocessors(&self.query),
            self.batch,
            group,
            list_heads,
            self.page_size,
        )
    }

    /// Room for the sums of the splits, and for their row maxima and row sums.
    fn splits(&self, n_splits: usize) -> Splits {
        let rows = self.batch * self.n_heads;
        Splits {
            sums: empty(&self.query, [rows, n_splits, self.head_dim], DType::F32),
            stats: empty(&self.query, [rows, n_splits, 2], DType::F32),
        }
    }

    fn read_arg<F: Float, N: Size, E: Numeric, W: Size>(
        &self,
        pages: CubeTensor,
    ) -> ReadArgLaunch<F, N, E, W> {
        let starts = self
            .chunk
            .map(|_| self.places.starts.clone().into_tensor_arg());
        ReadArgLaunch::new(
            self.query.clone().into_tensor_arg(),
            self.keys.arg(),
            self.values.arg(),
            pages.into_tensor_arg(),
            self.places.clone().into_arg(),
            starts.into(),
        )
    }

    fn output(&self) -> CubeTensor {
        let shape = [self.batch, self.n_heads, self.head_dim];
        empty(&self.query, shape, self.query.dtype)
    }

    /// Cube rows of a sequence.
    fn rows(&self, partition: &Partition) -> usize {
        self.n_heads / partition.kernel.heads()
    }

    fn cubes(&self, n_splits: usize, partition: &Partition) -> CubeCount {
        let rows = self.rows(partition);
        CubeCount::Static(n_splits as u32, rows as u32, self.batch as u32)
    }

    /// Merges the splits in a launch of their own.
    fn merge(&self, splits: &Splits, max_splits: usize) -> CubeTensor {
        let output = self.output();
        let hardware = &self.query.client.properties().hardware;
        let RowLayout { width, .. } = self.layout;
        let row = self.layout.row_vectors();
        let units = row * partition::merge_rows(row, max_splits, hardware);
        // SAFETY: every split has written its part.
        unsafe {
            merge::merge_kernel::launch_unchecked(
                &self.query.client,
                CubeCount::Static((self.batch * self.n_heads) as u32, 1, 1),
                CubeDim::new_1d(units as u32),
                address_type(&[&splits.sums, &output]),
                width,
                splits.arg(),
                output.clone().into_tensor_arg(),
                Merge::new(row, width, units, self.layout.plane, max_splits),
                dtype_to_storage_type(output.dtype),
            );
        }
        output
    }
}

/// What the splits of each query head sum up to.
struct Splits {
    /// `[heads, n_splits, head_dim]`
    sums: CubeTensor,
    /// Row max and row sum of the weights: `[heads, n_splits, 2]`.
    stats: CubeTensor,
}

impl Splits {
    fn arg<N: Size>(&self) -> SplitsArgLaunch<N> {
        SplitsArgLaunch::new(
            self.sums.clone().into_tensor_arg(),
            self.stats.clone().into_tensor_arg(),
        )
    }
}

impl Partition {
    fn splitting(&self) -> SplittingLaunch {
        SplittingLaunch::new(
            self.min_pages as u32,
            self.even_splits as u32,
            self.long_pages as u32,
            self.fine_pages as u32,
            self.max_splits as u32,
        )
    }
}

/// Attention over the listed pages, or over all of them, `[batch, n_heads, head_dim]`; of several tokens of each
/// head, with those as heads.
pub(in crate::kernels) fn launch(
    query: CubeTensor,
    keys: Rows<CubeBackend>,
    values: Rows<CubeBackend>,
    pages: PageList<CubeBackend>,
    places: Places<CubeBackend>,
    chunk: Chunk,
    scale: f32,
) -> CubeTensor {
    let problem = Problem::new(query, keys, values, places, chunk);
    let (pages, list_heads, bound) = match pages {
        PageList::Listed { ids } => {
            let ids = into_contiguous(ids);
            let (heads, k) = (ids.meta.shape()[1], ids.meta.shape()[2]);
            (Some(ids), heads, k)
        }
        PageList::All { bound } => (None, problem.n_kv_heads, bound),
    };
    let partition = problem.partition(list_heads);
    let n_splits = partition.n_splits(bound);
    let splits = problem.splits(n_splits);
    let listed = pages.is_some();
    // A kernel argument must be some tensor even when it is not read.
    let pages = pages.unwrap_or_else(|| problem.places.lengths.clone());
    let client = problem.query.client.clone();
    let cubes = problem.cubes(n_splits, &partition);
    let stored = [&problem.keys, &problem.values].map(Rows::stored);
    let address = address_type(&[stored[0], stored[1], &splits.sums]);
    let dtype = dtype_to_storage_type(problem.query.dtype);
    let stored_type = dtype_to_storage_type(stored[0].dtype);
    let rows = problem.keys.storage();
    match partition.kernel {
        // SAFETY: positions are masked by the lengths, pages clamped to the page table and the pool;
        // the shapes were checked before the operation was registered.
        Kernel::Lanes(shape) => with_rows!(rows, L => unsafe {
            listed::listed_kernel::launch_unchecked::<L>(
                &client,
                cubes,
                CubeDim::new_1d(shape.units as u32),
                address,
                shape.width(),
                problem.read_arg(pages),
                splits.arg(),
                scale,
                partition.splitting(),
                listed,
                shape,
                dtype,
                stored_type,
            );
        }),
        // SAFETY: as above.
        Kernel::Matrix(shape) => with_rows!(rows, L => unsafe {
            matrix::matrix_kernel::launch_unchecked::<L>(
                &client,
                cubes,
                CubeDim::new_1d(shape.units() as u32),
                address,
                shape.width(),
                shape.stored_width(rows),
                PACKED,
                problem.read_arg(pages),
                splits.arg(),
                scale,
                partition.splitting(),
                listed,
                shape,
                dtype,
                stored_type,
            );
        }),
    }
    problem.merge(&splits, partition.max_splits)
}
