//! Attention of one query token over pages: split over the pages, merged by log-sum-exp.

mod merge;
mod partition;
mod split;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use self::partition::Partition;
use super::{
    launch::{address_type, empty, multiprocessors},
    row::RowLayout,
};

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
    let query = into_contiguous(query);
    let (keys, values) = (into_contiguous(keys), into_contiguous(values));
    let pages = pages.map(into_contiguous);
    let page_table = into_contiguous(page_table);
    let shape = query.meta.shape();
    let (batch, n_heads, head_dim) = (shape[0], shape[1], shape[2]);
    let (n_kv_heads, page_size) = (keys.meta.shape()[1], keys.meta.shape()[2]);
    let (list_heads, bound) = match &pages {
        Some(pages) => (pages.meta.shape()[1], pages.meta.shape()[2]),
        None => (n_kv_heads, n_pages_bound),
    };
    let client = query.client.clone();
    let layout = RowLayout::of(&keys);
    let partition = Partition::new(
        &layout,
        &client.properties().hardware,
        multiprocessors(&query),
        batch,
        n_heads / list_heads,
        list_heads,
        page_size,
    );
    let n_splits = partition.n_splits(bound);
    let dtype = dtype_to_storage_type(query.dtype);
    let output = empty(&query, [batch, n_heads, head_dim], query.dtype);
    let partial = empty(&query, [batch * n_heads, n_splits, head_dim], DType::F32);
    let weights = empty(&query, [batch * n_heads, n_splits, 2], DType::F32);
    let address = address_type(&[&keys, &values, &partial]);
    let listed = pages.is_some();
    // A kernel argument must be some tensor even when it is not read.
    let pages = pages.unwrap_or_else(|| lengths.clone());
    // SAFETY: positions are masked by the lengths, pages clamped to the page table and the pool;
    // the shapes were checked before the operation was registered.
    unsafe {
        split::split_kernel::launch_unchecked(
            &client,
            CubeCount::Static(
                n_splits as u32,
                (n_heads / partition.heads) as u32,
                batch as u32,
            ),
            CubeDim::new_1d(partition.units as u32),
            address,
            layout.width,
            query.into_tensor_arg(),
            keys.into_tensor_arg(),
            values.into_tensor_arg(),
            pages.into_tensor_arg(),
            page_table.into_tensor_arg(),
            lengths.clone().into_tensor_arg(),
            partial.clone().into_tensor_arg(),
            weights.clone().into_tensor_arg(),
            scale,
            partition.min_pages as u32,
            partition.max_splits as u32,
            listed,
            partition.heads,
            layout.lanes,
            layout.vectors,
            layout.plane,
            partition.in_flight,
            partition.units,
            page_size,
            dtype,
        );
        merge::merge_kernel::launch_unchecked(
            &client,
            CubeCount::Static((batch * n_heads) as u32, 1, 1),
            CubeDim::new_1d((head_dim * partition.merge_rows) as u32),
            address_type(&[&partial, &output]),
            partial.into_tensor_arg(),
            weights.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            head_dim,
            partition.merge_rows,
            dtype,
        );
    }
    output
}
