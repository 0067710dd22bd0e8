//! Attention of the query heads of a group by matrix instructions, which leave so few operations to a
//! key and a value that memory is the limit.
//!
//! Keys and values go from their pages straight into the registers of instructions: a sum over channels
//! may go in any order, and so may a sum over tokens, so that what a lane loads at once, 16 bytes of a
//! row, are those channels that its registers are for.

mod heads;
mod tile;

use burn::tensor::DType;
use cubecl::{ir::DeviceProperties, prelude::*};

use self::{
    heads::{add_values, publish_heads, scores, start_heads, weigh},
    tile::{empty_tile, load_keys, load_values},
};
use super::{
    super::matrix_instruction::{COLUMNS, DEPTH, PACKED, PLANE, ROWS, is_there},
    args::{ReadArg, SplitsArg},
    listed::{reading, stage_chunk},
    split::{Chunk, PlaneSumsShape, Splitting, publish_nothing, slots},
};
use crate::{
    cache::{CHANNELS_PER_WORD, KvStorage},
    row_load::RowLoad,
};

/// Tokens that a plane attends to at a time.
pub(super) const TOKENS: usize = 2 * COLUMNS;
/// Planes of a cube.
const PLANES: usize = 4;
/// Channels of the widest load, of 16 bytes.
const WIDEST: usize = 8;
/// Widest head whose sums fit into the registers of a unit, next to its queries, keys and values.
const MAX_HEAD_DIM: usize = 128;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MatrixShape {
    /// Query heads of a cube.
    pub heads: usize,
    pub chunk: Chunk,
    pub planes: usize,
    pub page_size: usize,
    pub head_dim: usize,
}

impl MatrixShape {
    /// The shape for groups of `group` query heads, where there is one: a device needs the
    /// instructions for the dtype, a row pairs of channels for every lane, and 8 tokens in a row have to
    /// be of one page. One query head alone would leave most of an instruction unused.
    pub(super) fn new(
        properties: &DeviceProperties,
        dtype: DType,
        rows: KvStorage,
        (group, chunk): (usize, Chunk),
        head_dim: usize,
        page_size: usize,
    ) -> Option<Self> {
        let heads = (2..=ROWS)
            .rev()
            .find(|&heads| group.is_multiple_of(heads))?;
        let takes = is_there(properties, dtype, PLANES * PLANE)
            && head_dim.is_multiple_of(DEPTH)
            && head_dim <= MAX_HEAD_DIM
            && page_size.is_multiple_of(COLUMNS);
        let shape = Self {
            heads,
            chunk,
            planes: PLANES,
            page_size,
            head_dim,
        };
        // Rows in 8 bits are loaded as whole words.
        let in_words = rows == KvStorage::Full || shape.width().is_multiple_of(CHANNELS_PER_WORD);
        (takes && in_words).then_some(shape)
    }

    pub(super) fn units(&self) -> usize {
        self.planes * PLANE
    }

    /// Channels of a load: as many for each of 8 lanes.
    pub(super) fn width(&self) -> usize {
        let of_lane = self.head_dim / COLUMNS;
        WIDEST.min(1 << of_lane.trailing_zeros())
    }

    /// What is stored for the channels of a load.
    pub(super) fn stored_width(&self, rows: KvStorage) -> usize {
        match rows {
            KvStorage::Full => self.width(),
            KvStorage::Int8 => self.width() / CHANNELS_PER_WORD,
        }
    }

    /// Vectors of a row.
    fn row(&self) -> usize {
        self.head_dim / self.width()
    }

    /// Vectors of a key that a lane holds; four lanes share a key.
    fn key_vectors(&self) -> usize {
        self.row() / 4
    }

    /// Vectors of a value that a lane holds; eight lanes share a value.
    fn value_vectors(&self) -> usize {
        self.row() / COLUMNS
    }

    /// Instructions that go through the channels of a head.
    fn steps(&self) -> usize {
        self.head_dim / DEPTH
    }

    /// Runs of 8 query heads.
    pub(super) fn halves(&self) -> usize {
        self.heads.div_ceil(COLUMNS)
    }

    fn plane_sums(&self) -> PlaneSumsShape {
        PlaneSumsShape {
            planes: self.planes,
            heads: self.heads,
            row: self.row(),
        }
    }
}

/// Attention of one split. Cubes: splits, runs of query heads, sequences.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(super) fn matrix_kernel<L: RowLoad, F: Float, E: Numeric, N: Size, W: Size, P: Size>(
    read: &ReadArg<F, N, E, W>,
    splits: &mut SplitsArg<N>,
    scale: f32,
    splitting: Splitting,
    #[comptime] listed: bool,
    #[comptime] shape: MatrixShape,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _stored_type: ElemType,
) {
    let units = comptime!(shape.units());
    let reading = reading(read, &splitting, listed, shape.heads, shape.page_size);
    let split = CUBE_POS_X as usize;
    if reading.first >= reading.end {
        publish_nothing::<N>(splits, split, &reading.place, shape.heads);
        terminate!();
    }
    let mut heads = start_heads::<F, N, P>(&read.query, &reading.place, shape);
    let mut tile = empty_tile::<E, W>(shape);
    let mut slots = slots(units);
    let step = comptime!(shape.planes * TOKENS);
    let mut chunk = reading.first;
    while chunk < reading.end {
        let n_slots = min(reading.end - chunk, units);
        stage_chunk::<F, N, E, W>(
            &mut slots,
            chunk,
            n_slots,
            read,
            &reading,
            listed,
            shape.page_size,
        );
        sync_cube();
        let n_tokens = n_slots * shape.page_size;
        let mut token = UNIT_POS as usize / PLANE * TOKENS;
        while token < n_tokens {
            load_keys::<L, E, W>(
                &mut tile,
                &read.keys,
                &slots,
                token,
                n_slots,
                &reading.place,
                shape,
            );
            load_values::<L, E, W>(
                &mut tile,
                &read.values,
                &slots,
                token,
                n_slots,
                &reading.place,
                shape,
            );
            let scores = scores::<L, F, E, W, P>(&heads, &tile, shape);
            let weights = weigh::<L, F, E, W, P>(
                &mut heads, &tile, &scores, &slots, token, n_slots, scale, shape,
            );
            add_values::<L, F, E, W, P>(&mut heads, &tile, &weights, shape);
            token += step;
        }
        sync_cube();
        chunk += units;
    }
    publish_heads::<F, N, P>(&heads, splits, split, &reading.place, shape);
}
