use burn::{backend::cubecl::dtype_to_storage_type, tensor::Shape};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        args::{NewPlacesArg, PoolArg},
        int8::pack::{PackedDigests, PackedRow, largest_of, pack, packed_arg},
        launch::{address_type, assert_pool_in_place, with_rows},
        operands::{Places, Pool, Rows},
        row::RowLayout,
    },
    store::{RowStore, scale_entries, scale_of_row, stored_widths},
};
use crate::{
    digest::{DigestKind, KernelDigest, SCALAR_CHANNELS, merge_bounds, with_digest},
    row_load::RowLoad,
};

/// One cube per page that is written, KV head and sequence; a unit per vector of a row, which
/// walks the page's new tokens. Digests need no atomics, as no two cubes share a page.
#[cube(launch_unchecked, address_type = "dynamic")]
fn append_kernel<D: KernelDigest, L: RowLoad + RowStore, F: Float, E: Numeric, N: Size, W: Size>(
    pool: &mut PoolArg<E, W, F, N>,
    packed: &mut ComptimeOption<PackedDigests>,
    new_keys: &Tensor<Vector<F, N>>,
    new_values: &Tensor<Vector<F, N>>,
    places: &NewPlacesArg,
    #[comptime] shape: AppendShape,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _stored_type: ElemType,
) {
    let page_size = comptime!(shape.page_size);
    let units = comptime!(shape.units);
    let n_pages = pool.keys.rows.shape(0);
    let n_kv_heads = pool.keys.rows.shape(1);
    let tokens = new_keys.shape(2);
    let max_pages = places.page_table.shape(1);
    let row = CUBE_DIM as usize;
    let column = UNIT_POS as usize;
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let mut largest_of_units = Shared::<[u32]>::new_slice(comptime!(scale_entries::<L>(units)));

    let start = places.starts[sequence] as usize;
    let end = min(places.lengths[sequence] as usize, start + tokens);
    let page = start / page_size + CUBE_POS_X as usize;
    let first = max(page * page_size, start);
    let last = min((page + 1) * page_size, end);
    if first >= last || page >= max_pages {
        terminate!();
    }
    let pool_page = places.page_table[sequence * max_pages + page] as usize;
    if pool_page >= n_pages {
        terminate!();
    }

    let pool_head = pool_page * n_kv_heads + head;
    let source = (sequence * n_kv_heads + head) * tokens * row + column;
    let first_row = pool_head * page_size;
    // Compared in f32, which holds every key exactly: not every target compares bf16.
    let mut low = Vector::<f32, N>::new(0.0f32);
    let mut high = low;
    for token in first..last {
        let from = source + (token - start) * row;
        let to = first_row + token % page_size;
        let key = new_keys[from];
        let value = new_values[from];
        let largest = L::largest::<F, N>(key);
        let key_scale = scale_of_row::<L>(largest, &mut largest_of_units, units);
        let largest = L::largest::<F, N>(value);
        let value_scale = scale_of_row::<L>(largest, &mut largest_of_units, units);
        let key = L::store::<E, W, F, N>(&mut pool.keys, to * row + column, key, key_scale);
        L::store::<E, W, F, N>(&mut pool.values, to * row + column, value, value_scale);
        L::store_scale::<E, W>(&mut pool.keys, to, key_scale);
        L::store_scale::<E, W>(&mut pool.values, to, value_scale);
        if comptime!(D::IS_BOUND) {
            if token == first {
                low = key;
                high = key;
            } else {
                (low, high) = merge_bounds::<N>(low, high, key, key);
            }
        }
    }

    let digest = pool_head * comptime!(shape.digest) + column;
    if comptime!(D::IS_BOUND) {
        // Rows that were there, and not their digest: it may be of tokens that were taken back.
        let held = first % page_size;
        if held != 0 {
            let (old_low, old_high) =
                D::fold_rows::<L, E, W, N>(&pool.keys, first_row, column, row, held, page_size);
            (low, high) = merge_bounds::<N>(low, high, old_low, old_high);
        }
    } else {
        if comptime!(L::SCALED) {
            // Scales that another unit has written.
            sync_storage();
        }
        let held = last - page * page_size;
        (low, high) =
            D::fold_rows::<L, E, W, N>(&pool.keys, first_row, column, row, held, page_size);
    }
    pool.digests[digest] = Vector::cast_from(low);
    let mut scalar = f32::new(0.0);
    if comptime!(D::ROWS == 2) {
        pool.digests[digest + row] = Vector::cast_from(high);
    }
    if comptime!(D::SCALAR) {
        let mut sums = Shared::<[f32]>::new_slice(comptime!(shape.units));
        sums[column] = high.vector_sum();
        scalar = deviation(&sums, comptime!(shape.units), comptime!(shape.head_dim));
        let of_page = pool_head * comptime!(shape.digest) + row;
        write_behind::<F, N>(
            &mut pool.digests,
            of_page,
            scalar,
            comptime!(shape.behind),
            column,
        );
    }
    #[comptime]
    if let ComptimeOption::Some(packed) = packed {
        let packed_row = comptime!(packed.row);
        // What is packed are the digests as they are kept. A compiler may leave out the rounding of a
        // value that it still holds, but not that of one which other units may have changed.
        let mut rounded = Shared::<[Vector<F, N>]>::new_slice(comptime!(2 * shape.units));
        rounded[column] = Vector::cast_from(low);
        rounded[column + row] = Vector::cast_from(high);
        sync_cube();
        let low = Vector::<f32, N>::cast_from(rounded[column]);
        let high = Vector::<f32, N>::cast_from(rounded[column + row]);
        let mut largest = Shared::<[f32]>::new_slice(comptime!(packed_row.vectors));
        largest[column] = largest_of::<D, N>(low, high, packed_row);
        sync_cube();
        pack::<D, N>(
            packed,
            &largest,
            low,
            high,
            f32::cast_from(F::cast_from(scalar)),
            head * n_pages + pool_page,
            column,
        );
    }
}

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AppendShape {
    page_size: usize,
    head_dim: usize,
    /// Units of a cube: vectors of a row.
    units: usize,
    /// Vectors of a digest, and those behind its rows.
    digest: usize,
    behind: usize,
}

/// The standard deviation of all channels, from each unit's sum of variances. Every unit must reach it.
#[cube]
pub(in crate::kernels) fn deviation(
    sums: &Shared<[f32]>,
    #[comptime] units: usize,
    #[comptime] head_dim: usize,
) -> f32 {
    sync_cube();
    let mut sum = f32::new(0.0);
    for unit in 0..units {
        sum += sums[unit];
    }
    f32::sqrt(sum / comptime!(head_dim as f32))
}

/// Writes the number for all channels to the vectors behind a digest's rows.
#[cube]
pub(in crate::kernels) fn write_behind<F: Float, N: Size>(
    digests: &mut Tensor<Vector<F, N>>,
    at: usize,
    scalar: f32,
    #[comptime] behind: usize,
    unit: usize,
) {
    let scalar = Vector::<F, N>::cast_from(Vector::<f32, N>::new(scalar));
    if unit == 0 {
        #[unroll]
        for i in 0..behind {
            digests[at + i] = scalar;
        }
    }
}

/// Vectors of a digest whose rows have `row` vectors of `width` channels, and those behind the rows.
pub(in crate::kernels) fn digest_vectors(
    digest: DigestKind,
    row: usize,
    width: usize,
) -> (usize, usize) {
    let layout = digest.layout();
    let behind = if layout.scalar {
        SCALAR_CHANNELS / width
    } else {
        0
    };
    (layout.rows * row + behind, behind)
}

/// Most pages that a run of tokens touches: when only the first one lies in the first page.
pub(in crate::kernels) fn touched_pages(tokens: usize, page_size: usize) -> usize {
    (tokens - 1).div_ceil(page_size) + 1
}

/// Writes new rows, makes the digests of their pages and packs those where they are to be packed, all
/// in place.
pub(in crate::kernels) fn launch(
    pool: Pool<CubeBackend>,
    new_keys: CubeTensor,
    new_values: CubeTensor,
    places: Places<CubeBackend>,
) -> Pool<CubeBackend> {
    assert_pool_in_place("append", &pool);
    let Pool { keys, digests, .. } = &pool;
    let rows = digests.rows();
    let new_keys = into_contiguous(new_keys);
    let new_values = into_contiguous(new_values);
    let [_, _, page_size, head_dim] = keys.dims();
    let new: &Shape = new_keys.meta.shape();
    let (batch, n_kv_heads, tokens) = (new[0], new[1], new[2]);
    let touched = touched_pages(tokens, page_size);
    let (width, stored_width) = stored_widths(keys.storage(), RowLayout::of(&new_keys).width);
    let units = head_dim / width;
    let packed = packed_arg("append", digests, || PackedRow::new(width, units));
    let client = new_keys.client.clone();
    let stored = [&pool.keys, &pool.values].map(Rows::stored);
    let address = address_type(&[stored[0], stored[1], rows, &new_keys, &new_values]);
    let dtype = dtype_to_storage_type(new_keys.dtype);
    let stored_type = dtype_to_storage_type(keys.stored().dtype);
    let (of_digest, behind) = digest_vectors(digests.kind(), units, width);
    let shape = AppendShape {
        page_size,
        head_dim,
        units,
        digest: of_digest,
        behind,
    };
    // SAFETY: positions are masked by the lengths, pages by the page table's and the pool's size;
    // the shapes were checked before the operation was registered.
    with_rows!(keys.storage(), L => with_digest!(digests.kind(), D => unsafe {
        append_kernel::launch_unchecked::<D, L>(
            &client,
            CubeCount::Static(touched as u32, n_kv_heads as u32, batch as u32),
            CubeDim::new_1d(units as u32),
            address,
            width,
            stored_width,
            pool.arg(),
            packed.into(),
            new_keys.into_tensor_arg(),
            new_values.into_tensor_arg(),
            places.into_new_arg(),
            shape,
            dtype,
            stored_type,
        );
    }));
    pool
}
