//! Prompts by matrix instructions, whose registers the kernel holds itself: scores become weights of
//! the values without leaving their lane.

mod rows;
mod tile;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    rows::{fold, start_rows, write},
    tile::{empty_tile, load, nothing_loaded, stage},
};
use super::{
    super::matrix_instruction::{DEPTH, PACKED, PLANE, ROWS, is_there},
    Inputs,
    place::{Run, run_of_cube},
};

/// Planes of a cube, 16 query tokens each: keys and values in shared memory serve them all.
const PLANES: usize = 8;
/// Keys of a tile.
const KEYS: usize = 64;
/// Channels of a load of 16 bytes.
const WIDTH: usize = 8;
/// Widest head whose sums fit into the registers of a unit, next to its queries and scores.
const MAX_HEAD_DIM: usize = 128;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PrefillShape {
    head_dim: usize,
    page_size: usize,
    /// Keys of a tile.
    keys: usize,
    planes: usize,
}

impl PrefillShape {
    fn units(&self) -> usize {
        self.planes * PLANE
    }

    /// Query tokens of a cube.
    fn tokens(&self) -> usize {
        self.planes * ROWS
    }

    /// Vectors of a row.
    fn row(&self) -> usize {
        self.head_dim / WIDTH
    }

    /// Vectors from a row in shared memory to the next: odd, so that eight rows lie in different
    /// banks.
    fn stride(&self) -> usize {
        self.row() + 1
    }

    /// Vectors of keys, and of values, that a unit loads for a tile.
    fn loads(&self) -> usize {
        (self.keys * self.row()).div_ceil(self.units())
    }
}

/// Whether a device has the instructions for a dtype, and the kernel the head dim.
pub(super) fn supports(properties: &DeviceProperties, dtype: DType, head_dim: usize) -> bool {
    is_there(properties, dtype, PLANES * PLANE)
        && head_dim.is_multiple_of(DEPTH)
        && head_dim <= MAX_HEAD_DIM
}

/// Cubes: runs of query tokens, query heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
fn prefill_attention_kernel<F: Float, N: Size, P: Size>(
    query: &Tensor<Vector<F, P>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    starts: &Tensor<i32>,
    lengths: &Tensor<i32>,
    output: &mut Tensor<Vector<F, P>>,
    scale: f32,
    #[comptime] shape: PrefillShape,
    #[define(F)] _dtype: ElemType,
) {
    let tokens = query.shape(2);
    let Run {
        first,
        first_row: first_query,
        start,
        gained,
        place,
    } = run_of_cube::<F, N, P>(query, keys, page_table, starts, lengths, shape.tokens());
    let end = place.end;

    let plane = UNIT_POS as usize / PLANE;
    let upper = first + plane * ROWS + UNIT_POS_PLANE as usize / 4;
    let mut at = Array::<usize>::new(2usize);
    let mut wanted = Array::<bool>::new(2usize);
    let mut is_token = Array::<bool>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        let token = upper + half * 8;
        wanted[half] = token < tokens;
        is_token[half] = token < gained;
        let row = first_query + min(token, tokens - 1);
        at[half] = row * comptime!(shape.head_dim / PACKED);
    }
    let mut rows = start_rows::<F, P>(query, at[0], at[1], shape);
    let mut tile = empty_tile::<F, N>(shape);
    let mut loaded = nothing_loaded::<F, N>(shape);
    let mut first_key = 0usize;
    if first < gained {
        load::<F, N>(
            &mut loaded,
            keys,
            values,
            page_table,
            first_key,
            &place,
            shape,
        );
        while first_key < end {
            stage::<F, N>(&mut tile, &loaded, shape);
            sync_cube();
            // The next tile is on its way while this one is folded.
            load::<F, N>(
                &mut loaded,
                keys,
                values,
                page_table,
                first_key + shape.keys,
                &place,
                shape,
            );
            let visible = (start + upper + 1) as i32 - first_key as i32;
            let masked = first_key + shape.keys > start + first + 1;
            fold::<F, N, P>(&mut rows, &tile, visible, masked, scale, shape);
            sync_cube();
            first_key += shape.keys;
        }
    }
    write::<F, P>(&rows, output, &at, &wanted, &is_token, shape);
}

/// Writes the attention of every query token to `output`; where [`supports`] says yes.
pub(super) fn launch(inputs: Inputs, output: CubeTensor) {
    let [_, _, page_size, head_dim] = inputs.keys.meta.shape().dims::<4>();
    let shape = PrefillShape {
        head_dim,
        page_size,
        keys: KEYS,
        planes: PLANES,
    };
    let client = inputs.query.client.clone();
    let address = inputs.address_type();
    let dtype = dtype_to_storage_type(inputs.query.dtype);
    // SAFETY: tokens are masked by the lengths and the number of rows, pages clamped to the page
    // table and the pool; the shapes were checked before the operation was registered.
    unsafe {
        prefill_attention_kernel::launch_unchecked(
            &client,
            inputs.cubes(shape.tokens()),
            CubeDim::new_1d(shape.units() as u32),
            address,
            WIDTH,
            PACKED,
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
