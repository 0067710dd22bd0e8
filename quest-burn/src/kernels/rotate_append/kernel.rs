use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::super::{
    append::{
        RowStore, deviation, digest_vectors, scale_entries, scale_of_row, stored_widths,
        touched_pages, write_behind,
    },
    args::{NewPlacesArg, PoolArg},
    bindings,
    int8::pack::{PackedDigests, PackedRow, largest_of, pack, packed_arg},
    launch::{address_type, assert_pool_in_place, empty, with_rows},
    operands::{Norms, Places, Pool, Rows},
    rms_norm::scaled,
    row::RowLayout,
};
use crate::{
    cache::KvStorage,
    digest::{KernelDigest, merge_bounds, with_digest},
    row_load::RowLoad,
};

/// How a row of a merged projection becomes queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RotateShape {
    page_size: usize,
    n_heads: usize,
    /// Units of a cube: vectors in half a row.
    half: usize,
    /// Whether queries and keys are normed before they are rotated.
    normed: bool,
    head_dim: usize,
    /// Vectors of a digest, and those behind its rows.
    digest: usize,
    behind: usize,
}

/// The halves of a row's `unit`-th pair of vectors, normed (where there is a norm) and rotated.
#[cube]
fn rotated<F: Float, N: Size>(
    qkv: &Tensor<Vector<F, N>>,
    gammas: &Tensor<Vector<F, N>>,
    rotations: &Tensor<Vector<f32, N>>,
    sums: &mut Shared<[f32]>,
    from: usize,
    gamma: usize,
    position: usize,
    epsilon: f32,
    #[comptime] shape: RotateShape,
) -> (Vector<F, N>, Vector<F, N>) {
    let half = comptime!(shape.half);
    let unit = UNIT_POS as usize;
    let mut low = Vector::<f32, N>::cast_from(qkv[from + unit]);
    let mut high = Vector::<f32, N>::cast_from(qkv[from + half + unit]);
    if comptime!(shape.normed) {
        sync_cube();
        sums[unit] = fma(low, low, high * high).vector_sum();
        sync_cube();
        let mut sum = f32::new(0.0);
        for other in 0..half {
            sum += sums[other];
        }
        let rms = f32::sqrt(sum / comptime!(shape.head_dim as f32) + epsilon);
        let rms = Vector::<f32, N>::new(rms);
        // Rounded before the weight, as the models were trained.
        let normed_low = scaled::<F, N>(low / rms, gammas[gamma + unit]);
        let normed_high = scaled::<F, N>(high / rms, gammas[gamma + half + unit]);
        low = Vector::<f32, N>::cast_from(normed_low);
        high = Vector::<f32, N>::cast_from(normed_high);
    }
    let c = rotations[position * 2 * half + unit];
    let s = rotations[position * 2 * half + half + unit];
    (
        Vector::<F, N>::cast_from(low * c - high * s),
        Vector::<F, N>::cast_from(high * c + low * s),
    )
}

/// One cube per page that is written, head (query heads, then KV heads) and sequence; a unit per
/// pair of vectors that are rotated together, which walks the page's new tokens.
#[cube(launch_unchecked, address_type = "dynamic")]
fn rotate_append_kernel<
    D: KernelDigest,
    L: RowLoad + RowStore,
    F: Float,
    E: Numeric,
    N: Size,
    W: Size,
>(
    pool: &mut PoolArg<E, W, F, N>,
    query: &mut Tensor<Vector<F, N>>,
    qkv: &Tensor<Vector<F, N>>,
    gammas: &Tensor<Vector<F, N>>,
    rotations: &Tensor<Vector<f32, N>>,
    places: &NewPlacesArg,
    packed: &mut ComptimeOption<PackedDigests>,
    epsilon: f32,
    #[comptime] shape: RotateShape,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _stored_type: ElemType,
) {
    let page_size = comptime!(shape.page_size);
    let n_heads = comptime!(shape.n_heads);
    let half = comptime!(shape.half);
    let row = comptime!(2 * shape.half);
    let n_pages = pool.keys.rows.shape(0);
    let n_kv_heads = pool.keys.rows.shape(1);
    let tokens = qkv.shape(1);
    let heads = n_heads + 2 * n_kv_heads;
    let max_pages = places.page_table.shape(1);
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let mut sums = Shared::<[f32]>::new_slice(half);
    let mut largest_of_units = Shared::<[u32]>::new_slice(comptime!(scale_entries::<L>(half)));

    let start = places.starts[sequence] as usize;
    let page = start / page_size + CUBE_POS_X as usize;
    let first = max(page * page_size, start);
    if head < n_heads {
        // Queries are made for idle sequences too: what reads them may not branch.
        let last = min((page + 1) * page_size, start + tokens);
        for position in first..last {
            let token = position - start;
            let from = ((sequence * tokens + token) * heads + head) * row;
            let (low, high) = rotated::<F, N>(
                qkv,
                gammas,
                rotations,
                &mut sums,
                from,
                0usize,
                sequence * tokens + token,
                epsilon,
                shape,
            );
            let to = ((sequence * n_heads + head) * tokens + token) * row + unit;
            query[to] = low;
            query[to + half] = high;
        }
        terminate!();
    }

    let end = min(places.lengths[sequence] as usize, start + tokens);
    let last = min((page + 1) * page_size, end);
    if first >= last || page >= max_pages {
        terminate!();
    }
    let pool_page = places.page_table[sequence * max_pages + page] as usize;
    if pool_page >= n_pages {
        terminate!();
    }
    let kv_head = head - n_heads;
    let pool_head = pool_page * n_kv_heads + kv_head;
    let digest = pool_head * comptime!(shape.digest) + unit;
    let first_row = pool_head * page_size;
    let held_before = first % page_size;
    let mut first_low = Vector::<f32, N>::new(0.0f32);
    let mut first_high = first_low;
    let mut second_low = first_low;
    let mut second_high = first_low;
    if comptime!(D::IS_BOUND) {
        // Of the rows that were there, and not their digest: it may be of tokens that were taken back.
        if held_before != 0 {
            (first_low, second_low) = D::fold_rows::<L, E, W, N>(
                &pool.keys,
                first_row,
                unit,
                row,
                held_before,
                page_size,
            );
            (first_high, second_high) = D::fold_rows::<L, E, W, N>(
                &pool.keys,
                first_row,
                unit + half,
                row,
                held_before,
                page_size,
            );
        }
    }
    for position in first..last {
        let token = position - start;
        let from = ((sequence * tokens + token) * heads + head) * row;
        let (low, high) = rotated::<F, N>(
            qkv,
            gammas,
            rotations,
            &mut sums,
            from,
            row,
            sequence * tokens + token,
            epsilon,
            shape,
        );
        let to = first_row + position % page_size;
        let value = from + n_kv_heads * row + unit;
        let (low_value, high_value) = (qkv[value], qkv[value + half]);
        let largest = max(L::largest::<F, N>(low), L::largest::<F, N>(high));
        let key_scale = scale_of_row::<L>(largest, &mut largest_of_units, half);
        let largest = max(
            L::largest::<F, N>(low_value),
            L::largest::<F, N>(high_value),
        );
        let value_scale = scale_of_row::<L>(largest, &mut largest_of_units, half);
        let at = to * row + unit;
        let low = L::store::<E, W, F, N>(&mut pool.keys, at, low, key_scale);
        let high = L::store::<E, W, F, N>(&mut pool.keys, at + half, high, key_scale);
        L::store::<E, W, F, N>(&mut pool.values, at, low_value, value_scale);
        L::store::<E, W, F, N>(&mut pool.values, at + half, high_value, value_scale);
        L::store_scale::<E, W>(&mut pool.keys, to, key_scale);
        L::store_scale::<E, W>(&mut pool.values, to, value_scale);
        if comptime!(D::IS_BOUND) {
            if held_before == 0 && position == first {
                first_low = low;
                first_high = high;
                second_low = low;
                second_high = high;
            } else {
                (first_low, second_low) = merge_bounds::<N>(first_low, second_low, low, low);
                (first_high, second_high) = merge_bounds::<N>(first_high, second_high, high, high);
            }
        }
    }
    if comptime!(!D::IS_BOUND) {
        // Read back, so that keys count as they are kept.
        if comptime!(L::SCALED) {
            sync_storage();
        } else {
            sync_cube();
        }
        let held = last - page * page_size;
        (first_low, second_low) =
            D::fold_rows::<L, E, W, N>(&pool.keys, first_row, unit, row, held, page_size);
        (first_high, second_high) =
            D::fold_rows::<L, E, W, N>(&pool.keys, first_row, unit + half, row, held, page_size);
    }
    pool.digests[digest] = Vector::cast_from(first_low);
    pool.digests[digest + half] = Vector::cast_from(first_high);
    let mut scalar = f32::new(0.0);
    if comptime!(D::ROWS == 2) {
        pool.digests[digest + row] = Vector::cast_from(second_low);
        pool.digests[digest + row + half] = Vector::cast_from(second_high);
    }
    if comptime!(D::SCALAR) {
        let mut variances = Shared::<[f32]>::new_slice(half);
        variances[unit] = (second_low + second_high).vector_sum();
        scalar = deviation(&variances, half, comptime!(shape.head_dim));
        let digest_of_page = pool_head * comptime!(shape.digest) + row;
        write_behind::<F, N>(
            &mut pool.digests,
            digest_of_page,
            scalar,
            comptime!(shape.behind),
            unit,
        );
    }
    #[comptime]
    if let ComptimeOption::Some(packed) = packed {
        let packed_row = comptime!(packed.row);
        let place = kv_head * n_pages + pool_page;
        // What is packed are the digests as they are kept. A compiler may leave out the rounding of a
        // value that it still holds, but not that of one which other units may have changed.
        let mut rounded = Shared::<[Vector<F, N>]>::new_slice(comptime!(4 * shape.half));
        rounded[unit] = Vector::cast_from(first_low);
        rounded[unit + half] = Vector::cast_from(first_high);
        rounded[unit + row] = Vector::cast_from(second_low);
        rounded[unit + row + half] = Vector::cast_from(second_high);
        sync_cube();
        let first_low = Vector::<f32, N>::cast_from(rounded[unit]);
        let first_high = Vector::<f32, N>::cast_from(rounded[unit + half]);
        let second_low = Vector::<f32, N>::cast_from(rounded[unit + row]);
        let second_high = Vector::<f32, N>::cast_from(rounded[unit + row + half]);
        let mut largest = Shared::<[f32]>::new_slice(comptime!(packed_row.vectors));
        largest[unit] = largest_of::<D, N>(first_low, second_low, packed_row);
        largest[unit + half] = largest_of::<D, N>(first_high, second_high, packed_row);
        sync_cube();
        let scalar = f32::cast_from(F::cast_from(scalar));
        pack::<D, N>(packed, &largest, first_low, second_low, scalar, place, unit);
        pack::<D, N>(
            packed,
            &largest,
            first_high,
            second_high,
            scalar,
            place,
            unit + half,
        );
    }
}

/// Where the merged projection is among the buffers of a launch.
fn qkv_position(rows: KvStorage) -> usize {
    4 + bindings::of_scales(rows)
}

/// Norms and rotates queries and keys of a merged projection, and writes keys and values with
/// their digests, which are packed where they are to be, in place. Gives the pools back, and the
/// queries `[batch, n_heads, tokens, head_dim]`.
pub(in crate::kernels) fn launch(
    pool: Pool<CubeBackend>,
    qkv: CubeTensor,
    norms: Norms<CubeBackend>,
    rotations: CubeTensor,
    places: Places<CubeBackend>,
) -> (Pool<CubeBackend>, CubeTensor) {
    assert_pool_in_place("rotate_append", &pool);
    let Pool { keys, digests, .. } = &pool;
    let rows = digests.rows();
    let qkv = into_contiguous(qkv);
    let rotations = into_contiguous(rotations);
    let [_, n_kv_heads, page_size, _] = keys.dims();
    let shape = qkv.meta.shape();
    let (batch, tokens, heads, head_dim) = (shape[0], shape[1], shape[2], shape[3]);
    let n_heads = heads - 2 * n_kv_heads;
    let query = empty(&qkv, [batch, n_heads, tokens, head_dim], qkv.dtype);
    let widest = RowLayout::of(&qkv).width;
    // A vector lies in one half of a row.
    let width = widest.min(1 << (head_dim / 2).trailing_zeros());
    let (width, stored_width) = stored_widths(keys.storage(), width);
    let (of_digest, behind) = digest_vectors(digests.kind(), head_dim / width, width);
    let shape = RotateShape {
        page_size,
        n_heads,
        half: head_dim / 2 / width,
        normed: matches!(norms, Norms::Rms { .. }),
        head_dim,
        digest: of_digest,
        behind,
    };
    let packed = packed_arg("rotate_append", digests, || {
        PackedRow::new(width, 2 * shape.half)
    });
    let client = qkv.client.clone();
    let stored = [&pool.keys, &pool.values].map(Rows::stored);
    let address = address_type(&[stored[0], stored[1], rows, &qkv, &query]);
    let dtype = dtype_to_storage_type(qkv.dtype);
    let stored_type = dtype_to_storage_type(keys.stored().dtype);
    // What is not read takes no binding: some devices have few.
    let (gammas, epsilon) = match norms {
        Norms::Rms { gammas, epsilon } => (into_contiguous(gammas).into_tensor_arg(), epsilon),
        Norms::None => (qkv.as_tensor_alias(qkv_position(keys.storage())), 0.0),
    };
    // SAFETY: positions are masked by the lengths, pages by the page table's and the pool's size;
    // the shapes were checked before the operation was registered.
    with_rows!(keys.storage(), L => with_digest!(digests.kind(), D => unsafe {
        rotate_append_kernel::launch_unchecked::<D, L>(
            &client,
            CubeCount::Static(
                touched_pages(tokens, page_size) as u32,
                (n_heads + n_kv_heads) as u32,
                batch as u32,
            ),
            CubeDim::new_1d(shape.half as u32),
            address,
            width,
            stored_width,
            pool.arg(),
            query.clone().into_tensor_arg(),
            qkv.into_tensor_arg(),
            gammas,
            rotations.into_tensor_arg(),
            places.into_new_arg(),
            packed.into(),
            epsilon,
            shape,
            dtype,
            stored_type,
        );
    }));
    (pool, query)
}
