//! Prompts without matrix instructions: every unit multiplies in f32, with queries, keys, values and
//! scores of a tile in shared memory.

mod plan;
mod products;
mod softmax;

use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

pub(super) use self::plan::supports;
use self::{
    plan::{LANES, ROWS, UnitsShape},
    products::{add_values, score},
    softmax::{finish, start_running, weigh},
};
use super::{
    Inputs,
    place::{Place, Run, pool_row, run_of_cube},
};

/// Loads a tile of keys or values from `first` on into shared memory. Rows that no query sees become
/// zeros: what a pool holds there may be no number, and a weight of 0 does not make it one.
#[cube]
fn stage<F: Float, N: Size>(
    tile: &mut Shared<[Vector<f32, N>]>,
    pool: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    first: usize,
    place: &Place,
    #[comptime] shape: UnitsShape,
) {
    let vectors = comptime!(shape.vectors());
    let units = comptime!(shape.units());
    let mut i = UNIT_POS as usize;
    while i < comptime!(shape.keys * vectors) {
        let key = first + i / vectors;
        let seen = key < place.end;
        let row = pool_row(
            page_table,
            select(seen, key, 0usize),
            place,
            shape.page_size,
        );
        let value = Vector::<f32, N>::cast_from(pool[row * vectors + i % vectors]);
        let value = select(seen, value, Vector::new(0.0f32));
        tile[i / vectors * shape.stride() + i % vectors] = value;
        i += units;
    }
}

/// Cubes: runs of query tokens, query heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
fn prefill_units_kernel<F: Float, N: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    starts: &Tensor<i32>,
    lengths: &Tensor<i32>,
    output: &mut Tensor<Vector<F, N>>,
    scale: f32,
    #[comptime] shape: UnitsShape,
    #[define(F)] _dtype: ElemType,
) {
    let vectors = comptime!(shape.vectors());
    let units = comptime!(shape.units());
    let own = comptime!(shape.own_vectors());
    let tokens = query.shape(2);
    let Run {
        first,
        first_row: first_query,
        start,
        gained,
        place,
    } = run_of_cube::<F, N, N>(query, keys, page_table, starts, lengths, shape.tokens);
    let end = place.end;

    let mut queries =
        Shared::<[Vector<f32, N>]>::new_slice(comptime!(shape.tokens * shape.stride()));
    let mut tile = Shared::<[Vector<f32, N>]>::new_slice(comptime!(shape.keys * shape.stride()));
    let mut scores = Shared::<[f32]>::new_slice(comptime!(shape.tokens * shape.score_stride()));
    let mut corrections = Shared::<[f32]>::new_slice(shape.tokens);
    let mut running = start_running(products::NO_SCORE);
    let mut sums = Array::<Vector<f32, N>>::new(comptime!(ROWS * own));
    #[unroll]
    for i in 0..comptime!(ROWS * own) {
        sums[i] = Vector::new(0.0f32);
    }

    let mut i = UNIT_POS as usize;
    while i < comptime!(shape.tokens * vectors) {
        let token = min(first + i / vectors, tokens - 1);
        let value = query[(first_query + token) * vectors + i % vectors];
        let value = Vector::<f32, N>::cast_from(value) * Vector::new(scale);
        queries[i / vectors * shape.stride() + i % vectors] = value;
        i += units;
    }
    let mut first_key = 0usize;
    while first_key < end {
        stage::<F, N>(&mut tile, keys, page_table, first_key, &place, shape);
        sync_cube();
        let visible = (start + first + 1) as i32 - first_key as i32;
        score::<N>(&mut scores, &queries, &tile, visible, shape);
        sync_cube();
        stage::<F, N>(&mut tile, values, page_table, first_key, &place, shape);
        weigh(&mut running, &mut scores, &mut corrections, shape);
        sync_cube();
        add_values::<N>(&mut sums, &scores, &corrections, &tile, shape);
        sync_cube();
        first_key += shape.keys;
    }
    finish(&running, &mut corrections);
    sync_cube();

    let first_row = UNIT_POS as usize / LANES * ROWS;
    let lane = UNIT_POS as usize % LANES;
    #[unroll]
    for r in 0..ROWS {
        let token = first + first_row + r;
        let factor = Vector::<f32, N>::new(corrections[first_row + r]);
        #[unroll]
        for v in 0..own {
            let at = lane + v * LANES;
            // A query that is no token may be no number.
            let sum = select(
                token < gained,
                sums[r * own + v] * factor,
                Vector::new(0.0f32),
            );
            if token < tokens && at < vectors {
                output[(first_query + token) * vectors + at] = Vector::<F, N>::cast_from(sum);
            }
        }
    }
}

/// Writes the attention of every query token to `output`; where [`supports`] says yes.
pub(super) fn launch(inputs: Inputs, output: CubeTensor) {
    let [_, _, page_size, head_dim] = inputs.keys.meta.shape().dims::<4>();
    let client = inputs.query.client.clone();
    let shape = UnitsShape::plan(&client.properties().hardware, head_dim, page_size)
        .expect("the launch is for devices that hold a tile");
    let address = inputs.address_type();
    let dtype = dtype_to_storage_type(inputs.query.dtype);
    // SAFETY: tokens are masked by the lengths and the number of rows, pages clamped to the page
    // table and the pool; the shapes were checked before the operation was registered.
    unsafe {
        prefill_units_kernel::launch_unchecked(
            &client,
            inputs.cubes(shape.tokens),
            CubeDim::new_1d(shape.units() as u32),
            address,
            shape.width,
            inputs.query.into_tensor_arg(),
            inputs.keys.into_tensor_arg(),
            inputs.values.into_tensor_arg(),
            inputs.page_table.into_tensor_arg(),
            inputs.starts.into_tensor_arg(),
            inputs.lengths.into_tensor_arg(),
            output.into_tensor_arg(),
            inputs.scale,
            shape,
            dtype,
        );
    }
}
