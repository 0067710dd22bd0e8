//! Packed weights by matrix instructions, which leave so few operations to a weight that memory is
//! the limit.
//!
//! A lane loads 16 bytes of two weight rows. Two weights of a word, 16 bits apart, are kept by one
//! mask, and taken for two numbers in f16: those so small that their bits are an integer times 2^-24.
//! Zero points are left to the end of a block, where they multiply the sum of its left side. An
//! instruction sums up input channels in any order, so that left sides are put into that of the masks.

mod left;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{cmma::MmaDefinition, ir::DeviceProperties, prelude::*};

use self::left::{Left, stage_left};
use super::{
    super::{
        launch::{address_type, empty, multiprocessors},
        matrix_instruction::{COLUMNS, DEPTH, PACKED, PLANE, ROWS, is_there},
    },
    Epilogue, Packing,
    finish::write,
    left::fits,
};

/// Planes of a cube, which share the input channels of its weight rows.
const PLANES: usize = 8;
/// Cubes that a multiprocessor is meant to hold.
const CUBES_PER_MULTIPROCESSOR: usize = 2;
/// Lanes that share a weight row.
const LANES: usize = 4;
/// Words of a load.
const WORDS: usize = 4;
/// Channels of a vector of a left side.
const WIDTH: usize = 8;
/// Loads of a unit in flight, of two rows each.
const IN_FLIGHT: usize = 4;
/// What an integer is times as the bits of a number in f16.
const SMALLEST: f32 = 1.0 / 16_777_216.0;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct MatrixShape {
    /// Left sides.
    left_sides: usize,
    d_input: usize,
    normed: bool,
    packing: Packing,
    epilogue: Epilogue,
}

impl MatrixShape {
    /// Input channels that the lanes of a row load at a time; they have one scale.
    fn block(&self) -> usize {
        LANES * self.packing.per_load()
    }

    fn blocks(&self) -> usize {
        self.d_input / self.block()
    }

    /// Vectors of a left side.
    fn vectors(&self) -> usize {
        self.d_input / WIDTH
    }

    /// Vectors of a left side to each load.
    fn pieces(&self) -> usize {
        self.packing.per_load() / WIDTH
    }

    /// Runs of 16 weight rows that a cube reads at a time: gates, and what they gate.
    fn tiles(&self) -> usize {
        if self.epilogue.gated { 2 } else { 1 }
    }

    /// Blocks of each tile that a unit has in flight.
    fn in_flight(&self) -> usize {
        (IN_FLIGHT / self.tiles()).min(self.blocks().div_ceil(PLANES))
    }

    /// Left sides that a lane has sums of.
    fn columns(&self) -> usize {
        self.left_sides.min(2)
    }

    /// The channel of a vector that comes at its `index`-th place: neighbours are 16 bits apart in a
    /// word.
    fn channel(&self, index: usize) -> usize {
        let channels = match self.packing.bits {
            4 => [0, 4, 2, 6, 1, 5, 3, 7],
            _ => [0, 2, 1, 3, 4, 6, 5, 7],
        };
        channels[index]
    }

    fn sums(&self) -> usize {
        PLANES * self.tiles() * ROWS * self.left_sides
    }
}

/// Whether the kernel takes these weights on a device: its instructions are for f16, a load has to be
/// 16 bytes and the loads of a row's lanes have to lie within a group, and left sides in shared memory.
pub(super) fn takes(
    properties: &DeviceProperties,
    dtype: DType,
    left_sides: usize,
    d_input: usize,
    packing: Packing,
) -> bool {
    let block = LANES * packing.per_load();
    dtype == DType::F16
        && is_there(properties, dtype, PLANES * PLANE)
        && packing.words() == WORDS
        && packing.group.is_multiple_of(block)
        && d_input.is_multiple_of(block)
        && fits(left_sides * d_input * dtype.size(), &properties.hardware)
}

/// What a unit has in flight: words, scales and zero points of its rows, of each block its tiles.
#[derive(CubeType)]
struct Loaded<F: Float, W: Size> {
    words: Array<Vector<i32, W>>,
    scales: Array<F>,
    zeros: Array<F>,
}

/// Loads a block of this lane's rows of every tile into a slot.
#[cube]
fn load<F: Float, W: Size>(
    loaded: &mut Loaded<F, W>,
    words: &Tensor<Vector<i32, W>>,
    scales: &Tensor<F>,
    zeros: &Tensor<F>,
    first_output: usize,
    columns: usize,
    block: usize,
    #[comptime] slot: usize,
    #[comptime] shape: MatrixShape,
) {
    let tiles = comptime!(shape.tiles());
    let blocks = comptime!(shape.blocks());
    let lane = UNIT_POS_PLANE as usize;
    // Past the end the last block and the last row are read; their sums are not used.
    let block = min(block, blocks - 1);
    #[unroll]
    for tile in 0..tiles {
        #[unroll]
        for half in 0..2usize {
            let row = first_output + lane / LANES + half * (ROWS / 2);
            let row = min(row, columns - 1) + tile * columns;
            let index = comptime!((slot * tiles + tile) * 2 + half);
            let at = row * blocks + block;
            loaded.words[index] = words[at * LANES + lane % LANES];
            let group = at / comptime!(shape.packing.group / shape.block());
            loaded.scales[index] = scales[group];
            if comptime!(shape.packing.asymmetric) {
                loaded.zeros[index] = zeros[group];
            }
        }
    }
}

/// Four registers of weights: those that a mask keeps of a word of either row, and of the words 8
/// bits further up.
#[cube]
fn weights<F: Float, P: Size>(
    upper: i32,
    lower: i32,
    #[comptime] mask: i32,
) -> Array<Vector<F, P>> {
    let mut registers = Array::<Vector<F, P>>::new(4usize);
    registers[0] = Vector::reinterpret(upper & mask);
    registers[1] = Vector::reinterpret(lower & mask);
    registers[2] = Vector::reinterpret((upper >> 8i32) & mask);
    registers[3] = Vector::reinterpret((lower >> 8i32) & mask);
    registers
}

/// Two registers of left sides: the `half`-th two words of a vector.
#[cube]
fn left_registers<F: Float, W: Size, P: Size>(
    vector: Vector<i32, W>,
    #[comptime] half: usize,
) -> Array<Vector<F, P>> {
    let mut registers = Array::<Vector<F, P>>::new(2usize);
    #[unroll]
    for i in 0..2usize {
        registers[i] = Vector::reinterpret(vector.extract(comptime!(2 * half + i)));
    }
    registers
}

/// Adds a block's products: `totals` are those of this lane's two rows of each tile with its columns.
#[cube]
fn add_block<F: Float, W: Size, P: Size>(
    totals: &mut Array<f32>,
    loaded: &Loaded<F, W>,
    left: &Left<W>,
    block: usize,
    #[comptime] slot: usize,
    #[comptime] shape: MatrixShape,
) {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    let m = comptime!(shape.left_sides);
    let tiles = comptime!(shape.tiles());
    let pieces = comptime!(shape.pieces());
    let blocks = comptime!(shape.blocks());
    let columns = comptime!(shape.columns());
    let four_bits = comptime!(shape.packing.bits == 4);
    let lane = UNIT_POS_PLANE as usize;
    let is_in = block < blocks;
    let block = min(block, blocks - 1);
    // Of a column without a left side the sums are not used.
    let own = min(lane / LANES, m - 1);

    let mut vectors = Array::<Vector<i32, W>>::new(pieces);
    #[unroll]
    for piece in 0..pieces {
        let at = block * comptime!(LANES * pieces) + comptime!(LANES * piece) + lane % LANES;
        vectors[piece] = left.vectors[own * shape.vectors() + at];
    }
    #[unroll]
    for tile in 0..tiles {
        let index = comptime!((slot * tiles + tile) * 2);
        let upper = loaded.words[index];
        let lower = loaded.words[index + 1];
        let mut low = Array::<Vector<f32, P>>::new(2usize);
        let mut high = Array::<Vector<f32, P>>::new(2usize);
        #[unroll]
        for half in 0..2usize {
            low[half] = Vector::new(0.0f32);
            high[half] = Vector::new(0.0f32);
        }
        #[unroll]
        for piece in 0..pieces {
            let first = left_registers::<F, W, P>(vectors[piece], 0usize);
            let second = left_registers::<F, W, P>(vectors[piece], 1usize);
            if comptime!(four_bits) {
                let (u, l) = (upper.extract(piece), lower.extract(piece));
                low = definition.execute(&weights::<F, P>(u, l, 0x000F_000Fi32), &first, &low);
                high = definition.execute(&weights::<F, P>(u, l, 0x00F0_00F0i32), &second, &high);
            } else {
                let at = comptime!(2 * piece);
                let (u, l) = (upper.extract(at), lower.extract(at));
                low = definition.execute(&weights::<F, P>(u, l, 0x00FF_00FFi32), &first, &low);
                let (u, l) = (upper.extract(at + 1), lower.extract(at + 1));
                high = definition.execute(&weights::<F, P>(u, l, 0x00FF_00FFi32), &second, &high);
            }
        }
        // The bits of the second mask are 16 times as large.
        let above = comptime!(if four_bits { 1.0f32 / 16.0 } else { 1.0 });
        #[unroll]
        for half in 0..2usize {
            let scale = f32::cast_from(loaded.scales[index + half]);
            let scale = select(is_in, scale, 0.0f32);
            let zero = if comptime!(shape.packing.asymmetric) {
                f32::cast_from(loaded.zeros[index + half])
            } else {
                f32::new(comptime!(shape.packing.middle()))
            };
            #[unroll]
            for c in 0..columns {
                let column = min(2 * (lane % LANES) + c, m - 1);
                let sum = fma(high[half].extract(c), f32::new(above), low[half].extract(c));
                let sum = sum * comptime!(1.0 / SMALLEST);
                let sum = sum - zero * left.sums[column * blocks + block];
                let at = comptime!((tile * 2 + half) * columns + c);
                totals[at] = fma(sum, scale, totals[at]);
            }
        }
    }
}

/// Cubes take runs of 16 output channels in turns.
#[cube(launch_unchecked, address_type = "dynamic")]
fn matrix_kernel<F: Float, N: Size, W: Size, P: Size>(
    rows: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    words: &Tensor<Vector<i32, W>>,
    scales: &Tensor<F>,
    zeros: &Tensor<F>,
    bias: &Tensor<F>,
    residual: &Tensor<F>,
    output: &mut Tensor<F>,
    epsilon: f32,
    #[comptime] shape: MatrixShape,
    #[define(F)] _dtype: ElemType,
) {
    let m = comptime!(shape.left_sides);
    let tiles = comptime!(shape.tiles());
    let blocks = comptime!(shape.blocks());
    let in_flight = comptime!(shape.in_flight());
    let lane_columns = comptime!(shape.columns());
    let n_totals = comptime!(tiles * 2 * lane_columns);
    let n_loaded = comptime!(in_flight * tiles * 2);
    let columns = output.shape(1);
    let lane = UNIT_POS_PLANE as usize;
    let plane = UNIT_POS as usize / PLANE;
    let at_once = CUBE_COUNT_X as usize * ROWS;
    let mut first_output = CUBE_POS_X as usize * ROWS;

    let mut shared = Shared::<[f32]>::new_slice(comptime!(2 * shape.sums()));
    let mut totals = Array::<f32>::new(n_totals);
    let mut loaded = Loaded::<F, W> {
        words: Array::new(n_loaded),
        scales: Array::new(n_loaded),
        zeros: Array::new(n_loaded),
    };
    // The first weights are on their way while the left sides are normed.
    #[unroll]
    for i in 0..in_flight {
        load::<F, W>(
            &mut loaded,
            words,
            scales,
            zeros,
            first_output,
            columns,
            plane + i * PLANES,
            i,
            shape,
        );
    }
    let left = stage_left::<F, N, W>(rows, gamma, epsilon, shape);
    let mut turn = 0usize;
    while first_output < columns {
        #[unroll]
        for i in 0..n_totals {
            totals[i] = f32::new(0.0);
        }
        let next_output = first_output + at_once;
        let mut first_block = plane;
        while first_block < blocks {
            #[unroll]
            for i in 0..in_flight {
                let block = first_block + i * PLANES;
                add_block::<F, W, P>(&mut totals, &loaded, &left, block, i, shape);
                let next = block + in_flight * PLANES;
                let is_last = first_block + in_flight * PLANES >= blocks;
                // After the last blocks of this turn come the first ones of the next.
                let output_row = select(is_last, next_output, first_output);
                let next = select(is_last, plane + i * PLANES, next);
                if output_row < columns {
                    load::<F, W>(
                        &mut loaded,
                        words,
                        scales,
                        zeros,
                        output_row,
                        columns,
                        next,
                        i,
                        shape,
                    );
                }
            }
            first_block += comptime!(in_flight * PLANES);
        }

        let base = turn % 2 * shape.sums();
        #[unroll]
        for tile in 0..tiles {
            #[unroll]
            for half in 0..2usize {
                #[unroll]
                for c in 0..lane_columns {
                    let row = lane / LANES + half * (ROWS / 2);
                    let column = 2 * (lane % LANES) + c;
                    if column < m {
                        let at = ((plane * tiles + tile) * ROWS + row) * m + column;
                        shared[base + at] = totals[(tile * 2 + half) * lane_columns + c];
                    }
                }
            }
        }
        sync_cube();
        let i = UNIT_POS as usize;
        if i < comptime!(ROWS * m) {
            let mut sum = f32::new(0.0);
            let mut up = f32::new(0.0);
            #[unroll]
            for p in 0..PLANES {
                let at = base + comptime!(p * tiles * ROWS * m) + i;
                sum += shared[at];
                if comptime!(tiles > 1) {
                    up += shared[at + comptime!(ROWS * m)];
                }
            }
            let channel = first_output + i / m;
            write::<F>(
                sum,
                up,
                i % m,
                channel,
                bias,
                residual,
                output,
                shape.epilogue,
            );
        }
        first_output = next_output;
        turn += 1;
    }
}

/// Products of a few rows with every packed weight row, and what goes before and follows; where
/// [`takes`] says yes.
#[allow(clippy::too_many_arguments)]
pub(super) fn matrix_gemv(
    rows: CubeTensor,
    gamma: CubeTensor,
    words: CubeTensor,
    scales: CubeTensor,
    zeros: CubeTensor,
    bias: CubeTensor,
    residual: CubeTensor,
    normed: bool,
    epsilon: f32,
    packing: Packing,
    epilogue: Epilogue,
) -> CubeTensor {
    let rows = into_contiguous(rows);
    let words = into_contiguous(words);
    let [m, d_input] = rows.meta.shape().dims::<2>();
    let n = words.meta.shape()[0];
    let columns = if epilogue.gated { n / 2 } else { n };
    let shape = MatrixShape {
        left_sides: m,
        d_input,
        normed,
        packing,
        epilogue,
    };
    let cubes = columns
        .div_ceil(ROWS)
        .min(CUBES_PER_MULTIPROCESSOR * multiprocessors(&rows));
    let output = empty(&rows, [m, columns], rows.dtype);
    let client = rows.client.clone();
    let address = address_type(&[&words, &rows, &output]);
    let dtype = dtype_to_storage_type(rows.dtype);
    // SAFETY: blocks and weight rows are clamped to their numbers, outputs masked; the shapes were
    // checked before the operation was registered.
    unsafe {
        matrix_kernel::launch_unchecked(
            &client,
            CubeCount::Static(cubes as u32, 1, 1),
            CubeDim::new_1d((PLANES * PLANE) as u32),
            address,
            WIDTH,
            WORDS,
            PACKED,
            rows.into_tensor_arg(),
            into_contiguous(gamma).into_tensor_arg(),
            words.into_tensor_arg(),
            into_contiguous(scales).into_tensor_arg(),
            into_contiguous(zeros).into_tensor_arg(),
            into_contiguous(bias).into_tensor_arg(),
            into_contiguous(residual).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            epsilon,
            shape,
            dtype,
        );
    }
    output
}
