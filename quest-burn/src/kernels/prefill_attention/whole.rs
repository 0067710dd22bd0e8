//! Keys and values as the kernels of prompts read them.

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::super::{
    launch::{address_type, empty},
    operands::{Places, Rows},
};
use crate::{
    cache::CHANNELS_PER_WORD,
    row_load::{Int8, RowLoad, RowsArg},
};

/// Words of a load: 16 bytes.
const WORDS: usize = 4;
/// Most units of a cube.
const UNITS: usize = 256;
/// Most cubes along an axis: some devices launch no more.
const MAX_CUBES: usize = (1 << 16) - 1;

/// A pool in the dtype of the queries, and where the pages of the sequences are in it.
pub(super) struct Whole {
    pub keys: CubeTensor,
    pub values: CubeTensor,
    pub page_table: CubeTensor,
}

/// The keys and values of the sequences: those of the cache, or those that rows in 8 bits stand for, in a pool
/// of the pages that the sequences have.
pub(super) fn whole(
    query: &CubeTensor,
    keys: Rows<CubeBackend>,
    values: Rows<CubeBackend>,
    places: &Places<CubeBackend>,
) -> Whole {
    let page_table = into_contiguous(places.page_table.clone());
    match (keys, values) {
        (Rows::Full { rows: keys }, Rows::Full { rows: values }) => Whole {
            keys: into_contiguous(keys),
            values: into_contiguous(values),
            page_table,
        },
        (keys, values) => {
            let widen = |rows: Rows<CubeBackend>| {
                widened(query, rows.into_contiguous(), &page_table, &places.lengths)
            };
            let (keys, _) = widen(keys);
            let (values, page_table) = widen(values);
            Whole {
                keys,
                values,
                page_table,
            }
        }
    }
}

/// Cubes: columns of the page table, several of each cube where they are many, KV heads, sequences. Units share the
/// loads of a page.
#[cube(launch_unchecked, address_type = "dynamic")]
fn widen_kernel<F: Float, E: Numeric, N: Size>(
    rows: &RowsArg<E, N>,
    page_table: &Tensor<i32>,
    lengths: &Tensor<i32>,
    whole: &mut Tensor<Vector<F, N>>,
    own_table: &mut Tensor<i32>,
    #[comptime] page_size: usize,
    #[comptime] row: usize,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _stored_type: ElemType,
) {
    let (head, sequence) = (CUBE_POS_Y as usize, CUBE_POS_Z as usize);
    let n_kv_heads = rows.rows.shape(1);
    let columns = own_table.shape(1);
    // One row of the page table for a sequence, or one for each of its KV heads.
    let lists = page_table.shape(0) / own_table.shape(0);
    let list = sequence * lists + head * lists / n_kv_heads;
    let length = lengths[sequence] as usize;
    let mut page = CUBE_POS_X as usize;
    while page < columns {
        let own_page = sequence * columns + page;
        if head == 0 && UNIT_POS == 0u32 {
            own_table[own_page] = own_page as i32;
        }
        if page * page_size < length {
            let pool_page = page_table[list * columns + page] as usize;
            let pool_page = min(pool_page, rows.rows.shape(0) - 1);
            let from = (pool_page * n_kv_heads + head) * page_size;
            let to = (own_page * n_kv_heads + head) * page_size;
            let mut i = UNIT_POS as usize;
            while i < comptime!(page_size * row) {
                let load = rows.rows[from * row + i];
                let scale = Vector::<f32, N>::new(Int8::scale::<E, N>(rows, from + i / row));
                #[unroll]
                for word in 0..WORDS {
                    let channels = Int8::channels::<E, N, N>(load, word) * scale;
                    whole[(to * row + i) * WORDS + word] = Vector::<F, N>::cast_from(channels);
                }
                i += CUBE_DIM as usize;
            }
        }
        page += CUBE_COUNT_X as usize;
    }
}

/// What rows in 8 bits stand for, in the dtype of the queries: column `i` of the page table of sequence `s` is
/// page `s * columns + i`, as the second tensor says.
fn widened(
    query: &CubeTensor,
    rows: Rows<CubeBackend>,
    page_table: &CubeTensor,
    lengths: &CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let [_, n_kv_heads, page_size, head_dim] = rows.dims();
    let [batch, _, _, _] = query.meta.shape().dims::<4>();
    let [_, columns] = page_table.meta.shape().dims::<2>();
    let row = head_dim / (WORDS * CHANNELS_PER_WORD);
    let pool = [batch * columns, n_kv_heads, page_size, head_dim];
    let whole = empty(query, pool, query.dtype);
    let own_table = empty(query, [batch, columns], DType::I32);
    let max_units = query.client.properties().hardware.max_units_per_cube as usize;
    let units = (page_size * row).min(UNITS).min(max_units);
    // SAFETY: pages are masked by the lengths and clamped to the pool; the shapes were checked before the
    // operation was registered.
    unsafe {
        widen_kernel::launch_unchecked(
            &query.client,
            CubeCount::Static(
                columns.min(MAX_CUBES) as u32,
                n_kv_heads as u32,
                batch as u32,
            ),
            CubeDim::new_1d(units as u32),
            address_type(&[rows.stored(), &whole]),
            WORDS,
            rows.arg(),
            page_table.clone().into_tensor_arg(),
            lengths.clone().into_tensor_arg(),
            whole.clone().into_tensor_arg(),
            own_table.clone().into_tensor_arg(),
            page_size,
            row,
            dtype_to_storage_type(query.dtype),
            dtype_to_storage_type(rows.stored().dtype),
        );
    }
    (whole, own_table)
}
