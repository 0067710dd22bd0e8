//! Page scores by digests in 8 bits and matrix instructions, for the query heads of a group at once.
//!
//! The LHS has the positive parts of the queries in its upper 8 rows and the negative ones in its
//! lower 8: of its product with 8 maxima the upper half counts, of that with 8 minima the lower one.
//! Bytes become numbers two at a time, those of a word that are 16 bits apart; channels may be summed up
//! in any order.

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::{cmma::MmaDefinition, prelude::*};

use super::{
    super::{
        args::PlacesArg,
        launch::{address_type, empty, multiprocessors},
        matrix_instruction::{COLUMNS, DEPTH, PACKED, PLANE, ROWS, is_there},
        operands::Places,
    },
    Scoring,
};
use crate::{cache::CHANNELS_PER_SCALE, digest::DigestKind, pages::GroupRule};

/// Planes of a cube.
const PLANES: usize = 4;
/// Runs of 8 pages that a plane has in flight.
const IN_FLIGHT: usize = 2;
/// Lanes that share a digest.
const LANES: usize = 4;
/// Words of a load; the lanes of a digest load channels of one scale.
const WORDS: usize = 2;
/// Channels of a load, and of a vector of queries.
const WIDTH: usize = 8;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MatrixScores {
    /// Query heads of a KV head, and whether they share their pages.
    group: usize,
    shared: bool,
    head_dim: usize,
    page_size: usize,
    /// Runs of 8 pages that a plane has in flight.
    in_flight: usize,
}

impl MatrixScores {
    /// The shape for these queries and digests, where there is one: bytes become numbers by the bits of
    /// f16, and a scale has to be for all channels of a step.
    pub(super) fn new(
        query: &CubeTensor,
        words: &CubeTensor,
        digest: DigestKind,
        scoring: Scoring,
    ) -> Option<Self> {
        let [_, n_heads, head_dim] = query.meta.shape().dims::<3>();
        let group = n_heads / words.meta.shape()[0];
        let takes = digest == DigestKind::MinMax
            && scoring.rule.group_rule == GroupRule::Max
            && query.dtype == DType::F16
            && is_there(query.client.properties(), query.dtype, PLANES * PLANE)
            && (2..=COLUMNS).contains(&group)
            && head_dim.is_multiple_of(CHANNELS_PER_SCALE)
            && head_dim <= 4 * CHANNELS_PER_SCALE;
        takes.then_some(Self {
            group,
            shared: scoring.rule.is_shared(),
            head_dim,
            page_size: scoring.page_size,
            in_flight: IN_FLIGHT,
        })
    }

    /// Scales of a digest.
    fn blocks(&self) -> usize {
        self.head_dim / CHANNELS_PER_SCALE
    }

    /// Vectors of a row.
    fn row(&self) -> usize {
        self.head_dim / WIDTH
    }

    /// Pages that a plane scores.
    fn plane_pages(&self) -> usize {
        self.in_flight * COLUMNS
    }

    /// Pages that a cube scores.
    fn pages(&self) -> usize {
        PLANES * self.plane_pages()
    }
}

/// The channel of a load that comes at a place of a register, of four for each of two instructions'
/// two: bytes 16 bits apart.
fn channel(instruction: usize, half: usize, place: usize) -> usize {
    4 * instruction + half + 2 * place
}

/// Four registers for each 16 channels: positive and negative parts of the queries.
#[cube]
fn lhs_registers<F: Float, N: Size, P: Size>(
    query: &Tensor<Vector<F, N>>,
    first_head: usize,
    #[comptime] shape: MatrixScores,
) -> Array<Vector<F, P>> {
    let lane = UNIT_POS_PLANE as usize;
    let blocks = comptime!(shape.blocks());
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut registers = Array::<Vector<F, P>>::new(comptime!(8 * blocks));
    // Of rows past the heads the results are not used, or are those of the last head once more.
    let head = first_head + min(lane / LANES, comptime!(shape.group - 1));
    #[unroll]
    for b in 0..blocks {
        let q = Vector::<f32, N>::cast_from(query[head * shape.row() + b * LANES + lane % LANES]);
        let positive = Vector::<F, N>::cast_from(max(q, zero));
        let negative = Vector::<F, N>::cast_from(min(q, zero));
        #[unroll]
        for instruction in 0..2usize {
            #[unroll]
            for half in 0..2usize {
                let mut upper = Vector::<F, P>::new(F::new(0.0));
                let mut lower = Vector::<F, P>::new(F::new(0.0));
                #[unroll]
                for place in 0..PACKED {
                    let channel = comptime!(channel(instruction, half, place));
                    upper.insert(place, positive.extract(channel));
                    lower.insert(place, negative.extract(channel));
                }
                let at = comptime!((2 * b + instruction) * 4 + 2 * half);
                registers[at] = upper;
                registers[at + 1] = lower;
            }
        }
    }
    registers
}

/// The bytes of a word as two registers. Under the exponent of 1024 a byte with its sign turned over
/// is the number 1024 + 128 + what it stands for.
#[cube]
fn numbers<F: Float, P: Size>(word: i32) -> Array<Vector<F, P>> {
    let offset = Vector::<F, P>::new(F::new(1152.0));
    let mut registers = Array::<Vector<F, P>>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        let bytes = (word >> comptime!(8 * half as i32)) & 0x00FF_00FFi32;
        registers[half] = Vector::<F, P>::reinterpret(bytes ^ 0x6480_6480i32) - offset;
    }
    registers
}

/// Cubes: runs of pages, KV heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
fn int8_matrix_kernel<F: Float, N: Size, W: Size, P: Size>(
    query: &Tensor<Vector<F, N>>,
    words: &Tensor<Vector<i32, W>>,
    scales: &Tensor<f32>,
    places: &PlacesArg,
    scores: &mut Tensor<f32>,
    #[comptime] shape: MatrixScores,
    #[define(F)] _dtype: ElemType,
) {
    let definition = MmaDefinition::<F, F, f32>::new(ROWS, COLUMNS, DEPTH);
    let n_kv_heads = words.shape(0);
    let n_pool_pages = words.shape(1);
    let max_pages = places.page_table.shape(1);
    let n_scores = scores.shape(2);
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let in_flight = comptime!(shape.in_flight);
    let blocks = comptime!(shape.blocks());
    let row = comptime!(shape.row());
    let lane = UNIT_POS_PLANE as usize;
    let plane = UNIT_POS as usize / PLANE;
    let (g, t) = (lane / LANES, lane % LANES);
    let first = CUBE_POS_X as usize * shape.pages() + plane * shape.plane_pages();

    // Apart from the scoring, so that the page table is read while the length is on its way.
    let mut digests = Array::<usize>::new(in_flight);
    #[unroll]
    for p in 0..in_flight {
        let page = min(first + p * COLUMNS + g, max_pages - 1);
        let pool_page = places.page_table[sequence * max_pages + page] as usize;
        digests[p] = head * n_pool_pages + min(pool_page, n_pool_pages - 1);
    }
    let n_pages = (places.lengths[sequence] as usize + shape.page_size - 1) / shape.page_size;
    let n_pages = min(min(n_pages, max_pages), n_scores);
    if first < n_pages {
        let mut low = Array::<Vector<i32, W>>::new(comptime!(in_flight * blocks));
        let mut high = Array::<Vector<i32, W>>::new(comptime!(in_flight * blocks));
        let mut steps = Array::<f32>::new(in_flight);
        #[unroll]
        for p in 0..in_flight {
            let digest = digests[p] * 2 * row + t;
            #[unroll]
            for b in 0..blocks {
                low[p * blocks + b] = words[digest + b * LANES];
                high[p * blocks + b] = words[digest + row + b * LANES];
            }
            steps[p] = scales[digests[p] * blocks + min(t, comptime!(blocks - 1))];
        }
        let first_head = (sequence * n_kv_heads + head) * shape.group;
        let lhs_registers = lhs_registers::<F, N, P>(query, first_head, shape);
        #[unroll]
        for p in 0..in_flight {
            // Of head `g` and pages `2 t` and `2 t + 1`.
            let mut bounds = Vector::<f32, P>::new(0.0f32);
            #[unroll]
            for b in 0..blocks {
                let mut of_high = Array::<Vector<f32, P>>::new(2usize);
                let mut of_low = Array::<Vector<f32, P>>::new(2usize);
                #[unroll]
                for half in 0..2usize {
                    of_high[half] = Vector::new(0.0f32);
                    of_low[half] = Vector::new(0.0f32);
                }
                #[unroll]
                for instruction in 0..2usize {
                    let mut lhs = Array::<Vector<F, P>>::new(4usize);
                    #[unroll]
                    for i in 0..4usize {
                        lhs[i] = lhs_registers[comptime!((2 * b + instruction) * 4 + i)];
                    }
                    let at = comptime!(p * blocks + b);
                    let maxima = numbers::<F, P>(high[at].extract(instruction));
                    let minima = numbers::<F, P>(low[at].extract(instruction));
                    of_high = definition.execute(&lhs, &maxima, &of_high);
                    of_low = definition.execute(&lhs, &minima, &of_low);
                }
                let mut scale = Vector::<f32, P>::new(0.0f32);
                #[unroll]
                for i in 0..2usize {
                    let from = (2 * t + i) * LANES + b;
                    scale.insert(i, plane_shuffle(steps[p], from as u32));
                }
                bounds = fma(of_high[0] + of_low[1], scale, bounds);
            }
            #[unroll]
            for i in 0..2usize {
                let page = first + p * COLUMNS + 2 * t + i;
                let mut bound = bounds.extract(i);
                if comptime!(shape.shared) {
                    #[unroll]
                    for s in 0..3usize {
                        bound = max(bound, plane_shuffle_xor(bound, comptime!(4u32 << s)));
                    }
                    if g == 0 && page < n_pages {
                        scores[(sequence * n_kv_heads + head) * n_scores + page] = bound;
                    }
                } else if g < shape.group && page < n_pages {
                    scores[(first_head + g) * n_scores + page] = bound;
                }
            }
        }
    }
}

/// Bounds of the attention scores of each page by digests in 8 bits, `[batch, heads, n_scores]`.
pub(super) fn launch(
    query: CubeTensor,
    [words, scales]: [CubeTensor; 2],
    places: Places<CubeBackend>,
    n_scores: usize,
    shape: MatrixScores,
) -> CubeTensor {
    let [batch, n_heads, _] = query.meta.shape().dims::<3>();
    let n_kv_heads = words.meta.shape()[0];
    let heads = if shape.shared { n_kv_heads } else { n_heads };
    let output = empty(&query, [batch, heads, n_scores], DType::F32);
    // A small problem needs every multiprocessor more than it needs long queues.
    let mut shape = shape;
    let cubes = |shape: &MatrixScores| n_scores.div_ceil(shape.pages());
    while shape.in_flight > 1 && cubes(&shape) * batch * n_kv_heads < 2 * multiprocessors(&query) {
        shape.in_flight /= 2;
    }
    let client = query.client.clone();
    let address = address_type(&[&words, &output]);
    let dtype = dtype_to_storage_type(query.dtype);
    // SAFETY: pages are masked by the lengths and clamped to the page table and the pool; the
    // shapes were checked before the operation was registered.
    unsafe {
        int8_matrix_kernel::launch_unchecked(
            &client,
            CubeCount::Static(cubes(&shape) as u32, n_kv_heads as u32, batch as u32),
            CubeDim::new_1d((PLANES * PLANE) as u32),
            address,
            WIDTH,
            WORDS,
            PACKED,
            query.into_tensor_arg(),
            words.into_tensor_arg(),
            scales.into_tensor_arg(),
            places.into_arg(),
            output.clone().into_tensor_arg(),
            shape,
            dtype,
        );
    }
    output
}
