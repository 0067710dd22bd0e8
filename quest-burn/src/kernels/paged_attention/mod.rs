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

use self::{best::Choice, listed::SplittingLaunch, merge::Merge, partition::Partition};
use super::{
    BestPages,
    launch::{address_type, cubes_hand_over, cubes_start_in_order, empty, multiprocessors},
    page_scores::{self, ScoreShape},
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

    /// Room for the sums of the splits, and for their highest scores and totals.
    fn partial(&self, n_splits: usize) -> (CubeTensor, CubeTensor) {
        let rows = self.batch * self.n_heads;
        let sums = empty(&self.query, [rows, n_splits, self.head_dim], DType::F32);
        let stats = empty(&self.query, [rows, n_splits, 2], DType::F32);
        (sums, stats)
    }

    fn output(&self) -> CubeTensor {
        let shape = [self.batch, self.n_heads, self.head_dim];
        empty(&self.query, shape, self.query.dtype)
    }

    /// Cube rows of a sequence.
    fn rows(&self, partition: &Partition) -> usize {
        self.n_heads / partition.shape.heads
    }

    fn cubes(&self, n_splits: usize, partition: &Partition) -> CubeCount {
        let rows = self.rows(partition);
        CubeCount::Static(n_splits as u32, rows as u32, self.batch as u32)
    }

    /// How the last cube of a KV head merges the splits, where cubes can hand them over and
    /// shared memory holds them beside `shared_bytes` of other use.
    fn merge_in_launch(&self, partition: &Partition, shared_bytes: usize) -> Option<Merge> {
        let group = self.n_heads / self.n_kv_heads;
        let RowLayout { width, .. } = self.layout;
        let (row, units) = (self.layout.row_vectors(), partition.shape.units);
        let merge = Merge::new(group, row, width, units, partition.max_splits);
        let bytes = partition.shape.shared_bytes() + merge.shared_bytes() + shared_bytes;
        let client = &self.query.client;
        let most = client.properties().hardware.max_shared_memory_size;
        (cubes_hand_over(client) && bytes <= most).then_some(merge)
    }

    /// Merges the splits in a launch of their own.
    fn merge(&self, (partial, stats): (CubeTensor, CubeTensor), max_splits: usize) -> CubeTensor {
        let output = self.output();
        let hardware = &self.query.client.properties().hardware;
        let RowLayout { width, .. } = self.layout;
        let row = self.layout.row_vectors();
        let units = row * partition::merge_rows(row, hardware);
        // SAFETY: every split has written its part.
        unsafe {
            merge::merge_kernel::launch_unchecked(
                &self.query.client,
                CubeCount::Static((self.batch * self.n_heads) as u32, 1, 1),
                CubeDim::new_1d(units as u32),
                address_type(&[&partial, &output]),
                width,
                partial.into_tensor_arg(),
                stats.into_tensor_arg(),
                output.clone().into_tensor_arg(),
                Merge::new(1, row, width, units, max_splits),
                dtype_to_storage_type(output.dtype),
            );
        }
        output
    }
}

impl Partition {
    fn splitting(&self) -> SplittingLaunch {
        SplittingLaunch::new(self.min_pages as u32, self.max_splits as u32)
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
    counters: &CubeTensor,
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
    let (partial, stats) = problem.partial(n_splits);
    let listed = pages.is_some();
    // A kernel argument must be some tensor even when it is not read.
    let pages = pages.unwrap_or_else(|| problem.lengths.clone());
    let client = problem.query.client.clone();
    let cubes = problem.cubes(n_splits, &partition);
    let dim = CubeDim::new_1d(partition.shape.units as u32);
    let address = address_type(&[&problem.keys, &problem.values, &partial]);
    let dtype = dtype_to_storage_type(problem.keys.dtype);
    let Some(merge) = problem.merge_in_launch(&partition, 0) else {
        // SAFETY: positions are masked by the lengths, pages clamped to the page table and the
        // pool; the shapes were checked before the operation was registered.
        unsafe {
            listed::listed_kernel::launch_unchecked(
                &client,
                cubes,
                dim,
                address,
                problem.layout.width,
                problem.query.clone().into_tensor_arg(),
                problem.keys.clone().into_tensor_arg(),
                problem.values.clone().into_tensor_arg(),
                pages.into_tensor_arg(),
                problem.page_table.clone().into_tensor_arg(),
                problem.lengths.clone().into_tensor_arg(),
                partial.clone().into_tensor_arg(),
                stats.clone().into_tensor_arg(),
                scale,
                partition.splitting(),
                listed,
                partition.shape,
                dtype,
            );
        }
        return problem.merge((partial, stats), partition.max_splits);
    };
    let output = problem.output();
    // SAFETY: as above; the counters are zero between launches.
    unsafe {
        listed::listed_merged_kernel::launch_unchecked(
            &client,
            cubes,
            dim,
            address,
            problem.layout.width,
            problem.query.clone().into_tensor_arg(),
            problem.keys.clone().into_tensor_arg(),
            problem.values.clone().into_tensor_arg(),
            pages.into_tensor_arg(),
            problem.page_table.clone().into_tensor_arg(),
            problem.lengths.clone().into_tensor_arg(),
            partial.into_tensor_arg(),
            stats.into_tensor_arg(),
            counters.clone().into_tensor_arg(),
            output.clone().into_tensor_arg(),
            scale,
            partition.splitting(),
            listed,
            partition.shape,
            merge,
            dtype,
        );
    }
    output
}

/// Attention over the pages with the highest scores: one launch where cubes start in order, two
/// where they can hand each other their results, otherwise four.
#[allow(clippy::too_many_arguments)]
pub(crate) fn best_attention(
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    digests: CubeTensor,
    page_table: CubeTensor,
    lengths: CubeTensor,
    counters: &CubeTensor,
    scale: f32,
    best: BestPages,
) -> CubeTensor {
    let problem = Problem::new(query, keys, values, page_table, lengths);
    let shared = best.sharing == PageSharing::KvHead;
    let n_scores = best.n_pages_bound;
    let list_heads = if shared {
        problem.n_kv_heads
    } else {
        problem.n_heads
    };
    let partition = problem.partition(list_heads);
    let n_splits = partition.n_splits(best.k.min(n_scores));
    let units = partition.shape.units;
    let client = problem.query.client.clone();
    let walk = Walk::new(units, partition.shape.plane, n_scores);
    let group = problem.n_heads / problem.n_kv_heads;
    let score = ScoreShape::new(
        &problem.layout,
        group,
        shared,
        problem.page_size,
        units,
        knob("QB_FLIGHT", 4),
    );
    let merge = problem.merge_in_launch(&partition, walk.shared_bytes());
    let Some(merge) = merge else {
        let scores = page_scores::page_scores(
            problem.query.clone(),
            digests,
            problem.page_table.clone(),
            problem.lengths.clone(),
            problem.page_size,
            shared,
            n_scores,
        );
        let list = top_pages(
            scores,
            problem.lengths.clone(),
            problem.page_size,
            best.k,
            best.pin_newest,
            best.sink_pages,
        );
        return paged_attention(
            problem.query,
            problem.keys,
            problem.values,
            Some(list),
            problem.page_table,
            problem.lengths,
            counters,
            scale,
            0,
        );
    };
    let digests = into_contiguous(digests);
    let chunk = score.pages() * knob("QB_STEPS", 2);
    let choice = Choice {
        score,
        walk,
        page_size: problem.page_size,
        pin_newest: best.pin_newest,
        chunk,
        lists: list_heads / problem.n_kv_heads,
    };
    let n_chunks = n_scores.div_ceil(chunk);
    let scores = empty(
        &problem.query,
        [problem.batch, list_heads, n_scores],
        DType::F32,
    );
    let pages = empty(
        &problem.query,
        [problem.batch, list_heads, best.k],
        DType::I32,
    );
    let dim = CubeDim::new_1d(units as u32);
    let dtype = dtype_to_storage_type(problem.keys.dtype);
    if !cubes_start_in_order(&problem.query.device) || knob("QB_TWO", 0) == 1 {
        // SAFETY: as in `page_scores`, `top_pages` and `paged_attention`; the counters are zero
        // between launches.
        unsafe {
            best::choose_kernel::launch_unchecked(
                &client,
                CubeCount::Static(
                    n_chunks as u32,
                    problem.n_kv_heads as u32,
                    problem.batch as u32,
                ),
                dim,
                address_type(&[&digests, &scores]),
                problem.layout.width,
                problem.query.clone().into_tensor_arg(),
                digests.into_tensor_arg(),
                problem.page_table.clone().into_tensor_arg(),
                problem.lengths.clone().into_tensor_arg(),
                scores.into_tensor_arg(),
                pages.clone().into_tensor_arg(),
                counters.clone().into_tensor_arg(),
                best.sink_pages as u32,
                choice,
                dtype,
            );
        }
        return paged_attention(
            problem.query,
            problem.keys,
            problem.values,
            Some(pages),
            problem.page_table,
            problem.lengths,
            counters,
            scale,
            0,
        );
    }
    let (partial, stats) = problem.partial(n_splits);
    let output = problem.output();
    let n_scoring = problem.batch * problem.n_kv_heads * n_chunks;
    let n_attending = problem.batch * problem.rows(&partition) * n_splits;
    // SAFETY: as above; a cube waits for cubes of lower numbers only, which have started.
    unsafe {
        best::best_kernel::launch_unchecked(
            &client,
            CubeCount::Static((n_scoring + n_attending) as u32, 1, 1),
            dim,
            address_type(&[&problem.keys, &problem.values, &digests, &partial, &scores]),
            problem.layout.width,
            problem.query.clone().into_tensor_arg(),
            problem.keys.clone().into_tensor_arg(),
            problem.values.clone().into_tensor_arg(),
            digests.into_tensor_arg(),
            problem.page_table.clone().into_tensor_arg(),
            problem.lengths.clone().into_tensor_arg(),
            scores.into_tensor_arg(),
            pages.into_tensor_arg(),
            partial.into_tensor_arg(),
            stats.into_tensor_arg(),
            counters.clone().into_tensor_arg(),
            output.clone().into_tensor_arg(),
            scale,
            best.sink_pages as u32,
            n_chunks as u32,
            n_scoring as u32,
            partition.splitting(),
            choice,
            partition.shape,
            merge,
            dtype,
        );
    }
    output
}

pub(crate) fn knob(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}
