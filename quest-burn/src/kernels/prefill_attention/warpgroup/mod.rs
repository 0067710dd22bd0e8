//! Prompts by the warpgroup instructions of H100 and H200: queries, keys and values are multiplied where they
//! lie in shared memory, and pages arrive there while the tile before is folded.

mod rows;
mod tile;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::tensor::CubeTensor;
use cubecl::{ir::DeviceProperties, prelude::*};
use quest_burn_linear::kernels::warpgroup::{
    ALIGNMENT, GROUP_PLANES, GROUP_ROWS, PARTS, ROW_BYTES, complete, end_copies, is_there,
    multiply, multiply_words, publish, shared_address, wait_for_copies,
};

use self::{
    rows::{fold, start_rows, write},
    tile::{copies_of_unit, copy_queries, copy_tile},
};
use super::{
    super::matrix_instruction::{PACKED, PLANE, ROWS},
    Inputs,
    place::run_of_cube,
};

/// Groups of four planes, with 64 query tokens each: keys and values in shared memory serve them all.
const GROUPS: usize = 2;
/// Keys of a tile.
const KEYS: usize = 128;
/// Channels of a copy of 16 bytes.
const WIDTH: usize = 8;
/// Tiles of keys and values in shared memory: one is folded, the next one copied.
const STAGES: usize = 2;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WarpgroupShape {
    head_dim: usize,
    page_size: usize,
    /// As PTX calls it.
    dtype: &'static str,
}

impl WarpgroupShape {
    fn units(&self) -> usize {
        GROUPS * GROUP_PLANES * PLANE
    }

    /// Query tokens of a cube.
    fn tokens(&self) -> usize {
        GROUPS * GROUP_ROWS
    }

    /// Copies of a row of keys.
    fn parts(&self) -> usize {
        self.head_dim / WIDTH
    }

    /// Rows of 64 channels that a row of keys takes, each in a block of its own.
    fn blocks(&self) -> usize {
        self.parts() / PARTS
    }

    /// Rows that a cube copies at once.
    fn lines(&self) -> usize {
        self.units() / self.parts()
    }

    /// Bytes of so many rows.
    fn bytes(&self, rows: usize) -> usize {
        self.blocks() * rows * ROW_BYTES
    }

    fn stage_bytes(&self) -> usize {
        2 * self.bytes(KEYS)
    }

    /// Shared memory in copies, with room to begin at a multiple of [`ALIGNMENT`].
    fn shared(&self) -> usize {
        (self.bytes(self.tokens()) + STAGES * self.stage_bytes() + ALIGNMENT) / 16
    }
}

/// Whether a device has the instructions, and the kernel the dtype and the head dim.
pub(super) fn supports(properties: &DeviceProperties, dtype: DType, head_dim: usize) -> bool {
    is_there(properties)
        && matches!(dtype, DType::F16 | DType::BF16)
        && matches!(head_dim, 64 | 128)
}

/// Cubes: runs of query tokens, query heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
fn warpgroup_prefill_kernel<F: Float, N: Size, P: Size>(
    query: &Tensor<Vector<F, N>>,
    keys: &Tensor<Vector<F, N>>,
    values: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    starts: &Tensor<i32>,
    lengths: &Tensor<i32>,
    output: &mut Tensor<Vector<F, P>>,
    scale: f32,
    #[comptime] shape: WarpgroupShape,
    #[define(F)] _dtype: ElemType,
) {
    let run = run_of_cube::<F, N, N>(query, keys, page_table, starts, lengths, shape.tokens());
    let unit = UNIT_POS as usize;
    let upper = run.first + unit / PLANE * ROWS + unit % PLANE / 4;
    let shared = Shared::<[Vector<F, N>]>::new_aligned_slice(shape.shared(), ALIGNMENT);
    // A launch may ignore the alignment.
    let alignment = comptime!(ALIGNMENT as u32);
    let queries =
        (shared_address(&shared[0..1]) + comptime!(ALIGNMENT as u32 - 1)) / alignment * alignment;
    let tiles = queries + comptime!(shape.bytes(shape.tokens()) as u32);
    let copies = copies_of_unit(shape);
    let scale = scale * f32::new(core::f32::consts::LOG2_E);
    let mut rows = start_rows(shape);

    if run.first < run.gained {
        copy_queries::<F, N>(query, queries, &copies, &run, shape);
        copy_tile::<F, N>(
            keys, values, page_table, 0usize, tiles, &copies, &run.place, shape,
        );
        end_copies();

        let stage_bytes = comptime!(shape.stage_bytes() as u32);
        let group = UNIT_POS / comptime!((GROUP_PLANES * PLANE) as u32);
        let group_queries = queries + group * comptime!((GROUP_ROWS * ROW_BYTES) as u32);
        let query_block = comptime!((shape.tokens() * ROW_BYTES) as u32);
        let key_block = comptime!((KEYS * ROW_BYTES) as u32);
        let mut stage = 0u32;
        let mut first_key = 0usize;
        while first_key < run.place.end {
            wait_for_copies(0usize);
            publish();
            sync_cube();
            let tile = tiles + stage * stage_bytes;
            let mut scores = Array::<f32>::new(comptime!(KEYS / 2));
            #[unroll]
            for i in 0..comptime!(KEYS / 2) {
                scores[i] = f32::new(0.0);
            }
            #[unroll]
            for block in 0..comptime!(shape.blocks() as u32) {
                multiply(
                    &mut scores,
                    group_queries + block * query_block,
                    tile + block * key_block,
                    KEYS,
                    shape.dtype,
                );
            }
            // Every group is done with the tile before: its stage takes the next one.
            stage = 1u32 - stage;
            let next = first_key + KEYS;
            if next < run.place.end {
                let to = tiles + stage * stage_bytes;
                copy_tile::<F, N>(
                    keys, values, page_table, next, to, &copies, &run.place, shape,
                );
            }
            end_copies();
            complete(&mut scores);

            let visible = (run.start + upper + 1) as i32 - first_key as i32;
            let masked = next > run.start + run.first + 1;
            let weights = fold::<F>(&mut rows, &mut scores, visible, masked, scale, KEYS, shape);
            multiply_words(
                &mut rows.out,
                &weights,
                tile + comptime!(shape.bytes(KEYS) as u32),
                KEYS,
                shape.head_dim,
                shape.dtype,
            );
            first_key = next;
        }
    }
    write::<F, P>(&rows, output, upper, &run, query.shape(2), shape);
}

/// Writes the attention of every query token to `output`; where [`supports`] says yes.
pub(super) fn launch(inputs: Inputs, output: CubeTensor) {
    let [_, _, page_size, head_dim] = inputs.keys.meta.shape().dims::<4>();
    let shape = WarpgroupShape {
        head_dim,
        page_size,
        dtype: match output.dtype {
            DType::BF16 => "bf16",
            _ => "f16",
        },
    };
    let client = inputs.query.client.clone();
    let address = inputs.address_type();
    let dtype = dtype_to_storage_type(inputs.query.dtype);
    // SAFETY: tokens are masked by the lengths and the number of rows, pages clamped to the page
    // table and the pool; the shapes were checked before the operation was registered.
    unsafe {
        warpgroup_prefill_kernel::launch_unchecked(
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
