//! Attention of one query token over pages: split over the pages, merged by log-sum-exp.

mod best;
mod listed;
mod merge;
mod partition;
mod softmax;
mod split;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use crate::PageSharing;

use self::{
    best::{Best, ChoiceLaunch},
    merge::Merge,
    partition::Partition,
};
use super::{
    BestPages,
    launch::{address_type, empty, multiprocessors},
    page_scores,
    row::RowLayout,
    selection::Walk,
    top_pages::top_pages,
};

/// The cache that a query reads, ready for a launch.
struct Problem {
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    page_table: CubeTensor,
    lengths: CubeTensor,
    batch: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    page_size: usize,
    layout: RowLayout,
}

impl Problem {
    fn new(
        query: CubeTensor,
        keys: CubeTensor,
        values: CubeTensor,
        page_table: CubeTensor,
        lengths: CubeTensor,
    ) -> Self {
        let query = into_contiguous(query);
        let (keys, values) = (into_contiguous(keys), into_contiguous(values));
        let [batch, n_heads, head_dim] = query.meta.shape().dims::<3>();
        let [_, n_kv_heads, page_size, _] = keys.meta.shape().dims::<4>();
        Self {
            layout: RowLayout::of(&keys),
            page_table: into_contiguous(page_table),
            query,
            keys,
            values,
            lengths,
            batch,
            n_heads,
            n_kv_heads,
            head_dim,
            page_size,
        }
    }

    /// The partition for `list_heads` page lists per sequence.
    fn partition(&self, list_heads: usize) -> Partition {
        Partition::new(
            &self.layout,
            &self.query.client.properties().hardware,
            multiprocessors(&self.query),
            self.batch,
            self.n_heads / list_heads,
            list_heads,
            self.page_size,
        )
    }

    fn partial(&self, n_splits: usize) -> CubeTensor {
        let rows = self.batch * self.n_heads;
        empty(&self.query, [rows, n_splits, self.head_dim + 2], DType::F32)
    }

    fn output(&self) -> CubeTensor {
        let shape = [self.batch, self.n_heads, self.head_dim];
        empty(&self.query, shape, self.query.dtype)
    }

    fn cubes(&self, n_splits: usize, partition: &Partition) -> CubeCount {
        let rows = self.n_heads / partition.shape.heads;
        CubeCount::Static(n_splits as u32, rows as u32, self.batch as u32)
    }

    /// Chooses the pages in a launch of their own.
    fn listed(self, scores: CubeTensor, pages: BestPages, scale: f32) -> CubeTensor {
        let list = top_pages(
            scores,
            self.lengths.clone(),
            self.page_size,
            pages.k,
            pages.pin_newest,
            pages.sink_pages,
        );
        paged_attention(
            self.query,
            self.keys,
            self.values,
            Some(list),
            self.page_table,
            self.lengths,
            scale,
            0,
        )
    }

    /// Merges the splits in a launch of their own.
    fn merge(&self, partial: CubeTensor) -> CubeTensor {
        let output = self.output();
        let hardware = &self.query.client.properties().hardware;
        let units = self.head_dim * partition::merge_rows(self.head_dim, hardware);
        let n_splits = partial.meta.shape()[1];
        // SAFETY: every split has written its part.
        unsafe {
            merge::merge_kernel::launch_unchecked(
                &self.query.client,
                CubeCount::Static((self.batch * self.n_heads) as u32, 1, 1),
                CubeDim::new_1d(units as u32),
                address_type(&[&partial, &output]),
                partial.into_tensor_arg(),
                output.clone().into_tensor_arg(),
                Merge::new(1, self.head_dim, units, n_splits),
                dtype_to_storage_type(output.dtype),
            );
        }
        output
    }
}

/// Attention over the listed pages, or over all of them, `[batch, n_heads, head_dim]`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn paged_attention(
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    pages: Option<CubeTensor>,
    page_table: CubeTensor,
    lengths: CubeTensor,
    scale: f32,
    n_pages_bound: usize,
) -> CubeTensor {
    let problem = Problem::new(query, keys, values, page_table, lengths);
    let pages = pages.map(into_contiguous);
    let (list_heads, bound) = match &pages {
        Some(pages) => (pages.meta.shape()[1], pages.meta.shape()[2]),
        None => (problem.n_kv_heads, n_pages_bound),
    };
    let partition = problem.partition(list_heads);
    let n_splits = partition.n_splits(bound);
    let partial = problem.partial(n_splits);
    let listed = pages.is_some();
    // A kernel argument must be some tensor even when it is not read.
    let pages = pages.unwrap_or_else(|| problem.lengths.clone());
    // SAFETY: positions are masked by the lengths, pages clamped to the page table and the pool;
    // the shapes were checked before the operation was registered.
    unsafe {
        listed::listed_kernel::launch_unchecked(
            &problem.query.client,
            problem.cubes(n_splits, &partition),
            CubeDim::new_1d(partition.shape.units as u32),
            address_type(&[&problem.keys, &problem.values, &partial]),
            problem.layout.width,
            problem.query.clone().into_tensor_arg(),
            problem.keys.clone().into_tensor_arg(),
            problem.values.clone().into_tensor_arg(),
            pages.into_tensor_arg(),
            problem.page_table.clone().into_tensor_arg(),
            problem.lengths.clone().into_tensor_arg(),
            partial.clone().into_tensor_arg(),
            scale,
            partition.min_pages as u32,
            partition.max_splits as u32,
            listed,
            partition.shape,
            dtype_to_storage_type(problem.keys.dtype),
        );
    }
    problem.merge(partial)
}

/// Attention over the pages with the highest scores: two launches, or three where cubes cannot
/// hand each other their results.
#[allow(clippy::too_many_arguments)]
pub(crate) fn best_attention(
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    digests: CubeTensor,
    page_table: CubeTensor,
    lengths: CubeTensor,
    scale: f32,
    pages: BestPages,
) -> CubeTensor {
    let problem = Problem::new(query, keys, values, page_table, lengths);
    let heads = if pages.sharing == PageSharing::KvHead {
        problem.n_kv_heads
    } else {
        problem.n_heads
    };
    let partition = problem.partition(heads);
    let n_splits = partition.n_splits(pages.k);
    let shape = partition.shape;
    let client = problem.query.client.clone();
    let merged = client.properties().features.device_memory_scope;
    let rows = problem.n_heads / shape.heads * problem.batch;
    let arrivals = merged.then(|| empty(&problem.query, [rows], DType::U32));
    let scores = page_scores::page_scores(
        problem.query.clone(),
        digests,
        problem.page_table.clone(),
        problem.lengths.clone(),
        problem.page_size,
        pages.sharing == PageSharing::KvHead,
        pages.n_pages_bound,
        arrivals.clone(),
    );
    let best = Best {
        shape,
        walk: Walk::new(shape.units, shape.plane, pages.n_pages_bound),
        pin_newest: pages.pin_newest,
    };
    let merge = Merge::new(shape.heads, problem.head_dim, shape.units, n_splits);
    let shared = shape.shared_bytes() + best.walk.shared_bytes() + merge.shared_bytes();
    let list_of_cube = pages.k.min(pages.n_pages_bound).div_ceil(n_splits);
    if list_of_cube > shape.units || shared > client.properties().hardware.max_shared_memory_size {
        // A cube cannot hold its part of the list.
        return problem.listed(scores, pages, scale);
    }
    let partial = problem.partial(n_splits);
    let choice = ChoiceLaunch::new(
        pages.k as u32,
        pages.sink_pages as u32,
        partition.min_pages as u32,
        partition.max_splits as u32,
    );
    let cubes = problem.cubes(n_splits, &partition);
    let dim = CubeDim::new_1d(shape.units as u32);
    let address = address_type(&[&problem.keys, &problem.values, &partial, &scores]);
    let dtype = dtype_to_storage_type(problem.keys.dtype);
    let Some(arrivals) = arrivals else {
        // SAFETY: as in `paged_attention`; a slot is below the units of a cube, as was checked.
        unsafe {
            best::best_kernel::launch_unchecked(
                &client,
                cubes,
                dim,
                address,
                problem.layout.width,
                problem.query.clone().into_tensor_arg(),
                problem.keys.clone().into_tensor_arg(),
                problem.values.clone().into_tensor_arg(),
                scores.into_tensor_arg(),
                problem.page_table.clone().into_tensor_arg(),
                problem.lengths.clone().into_tensor_arg(),
                partial.clone().into_tensor_arg(),
                scale,
                choice,
                best,
                dtype,
            );
        }
        return problem.merge(partial);
    };
    let output = problem.output();
    // SAFETY: as above; the page scores' launch has set the arrivals to zero.
    unsafe {
        best::best_merged_kernel::launch_unchecked(
            &client,
            cubes,
            dim,
            address,
            problem.layout.width,
            problem.query.clone().into_tensor_arg(),
            problem.keys.clone().into_tensor_arg(),
            problem.values.clone().into_tensor_arg(),
            scores.into_tensor_arg(),
            problem.page_table.clone().into_tensor_arg(),
            problem.lengths.clone().into_tensor_arg(),
            partial.clone().into_tensor_arg(),
            arrivals.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            scale,
            choice,
            best,
            merge,
            dtype,
        );
    }
    output
}
