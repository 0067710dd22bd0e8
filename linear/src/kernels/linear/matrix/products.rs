use cubecl::{cmma::MmaDefinition, prelude::*};

use super::{
    super::{
        super::matrix_instruction::{BYTE_DEPTH, COLUMNS, ROWS},
        args::WeightsArg,
        load::Loaded,
    },
    lhs::{Lhs, digits_at},
    shape::{DIGITS, LANES, MatrixShape},
    weights::{load_scales, load_words, own_chunk, own_step},
};

/// Four registers of weights, as bytes that a mask keeps: those of the `pair`-th two words of either
/// row.
#[cube]
fn masked<W: Size>(
    upper: Vector<i32, W>,
    lower: Vector<i32, W>,
    #[comptime] pair: usize,
    #[comptime] mask: u32,
) -> Array<Vector<u8, Const<16>>> {
    let mut words = Vector::<i32, Const<4>>::new(0i32);
    #[unroll]
    for i in 0..2usize {
        let word = comptime!(2 * pair + i);
        words.insert(2 * i, upper.extract(word) & comptime!(mask as i32));
        words.insert(2 * i + 1, lower.extract(word) & comptime!(mask as i32));
    }
    let mut registers = Array::<Vector<u8, Const<16>>>::new(1usize);
    registers[0] = Vector::reinterpret(words);
    registers
}

/// Two registers of digits.
#[cube]
fn digits<W: Size>(
    vector: Vector<i32, W>,
    #[comptime] first: usize,
    #[comptime] second: usize,
) -> Array<Vector<i8, Const<8>>> {
    let mut words = Vector::<i32, Const<2>>::new(0i32);
    words.insert(0usize, vector.extract(first));
    words.insert(1usize, vector.extract(second));
    let mut registers = Array::<Vector<i8, Const<8>>>::new(1usize);
    registers[0] = Vector::reinterpret(words);
    registers
}

/// The products of one load with an LHS row's block: those of this lane's two rows with its columns,
/// which are the digits of one LHS row, put together.
///
/// A sum of a block's products of weights with digits has 22 bits and a sign, with 4 bits as with 8.
#[cube]
fn products<W: Size>(
    upper: Vector<i32, W>,
    lower: Vector<i32, W>,
    lhs: &Array<Vector<i32, W>>,
    #[comptime] tile: usize,
    #[comptime] shape: MatrixShape,
) -> Array<i32> {
    let definition = MmaDefinition::<u8, i8, i32>::new(ROWS, COLUMNS, BYTE_DEPTH);
    let pairs = comptime!(shape.pairs());
    let four_bits = comptime!(shape.packing.bits == 4);
    let mut low = Array::<Vector<i32, Const<2>>>::new(2usize);
    let mut high = Array::<Vector<i32, Const<2>>>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        low[half] = Vector::new(0i32);
        high[half] = Vector::new(0i32);
    }
    #[unroll]
    for pair in 0..2usize {
        if comptime!(four_bits) {
            let vector = lhs[comptime!(tile * pairs + pair)];
            let kept = masked::<W>(upper, lower, pair, 0x0F0F_0F0Fu32);
            low = definition.execute(&kept, &digits::<W>(vector, 0usize, 2usize), &low);
            let kept = masked::<W>(upper, lower, pair, 0xF0F0_F0F0u32);
            high = definition.execute(&kept, &digits::<W>(vector, 1usize, 3usize), &high);
        } else {
            let vector = lhs[tile];
            let kept = masked::<W>(upper, lower, pair, 0xFFFF_FFFFu32);
            let digits = digits::<W>(vector, comptime!(2 * pair), comptime!(2 * pair + 1));
            low = definition.execute(&kept, &digits, &low);
        }
    }
    let mut sums = Array::<i32>::new(2usize);
    #[unroll]
    for half in 0..2usize {
        let mut first = low[half].extract(0usize);
        let mut second = low[half].extract(1usize);
        if comptime!(four_bits) {
            // Where the mask keeps the upper ones, they are 16 times as large.
            first = first * 16i32 + high[half].extract(0usize);
            second = second * 16i32 + high[half].extract(1usize);
        }
        sums[half] = first * 256i32 + second;
    }
    sums
}

/// Adds a segment's products to `totals`, those of this lane's two rows with its LHS row of each tile,
/// and loads `next_segment` of the rows from `next_output` on in its place.
#[cube]
pub(super) fn add_segment<F: Float, W: Size, H: Size>(
    totals: &mut Array<f32>,
    loaded: &mut Loaded<i32, W, F, H>,
    lhs: &Lhs<W>,
    weights: &WeightsArg<i32, W, F, H>,
    segment: usize,
    next_segment: usize,
    next_output: usize,
    columns: usize,
    #[comptime] slot: usize,
    #[comptime] shape: MatrixShape,
) {
    let m = comptime!(shape.lhs_rows);
    let chunks = comptime!(shape.chunks());
    let sides = comptime!(shape.sides());
    let tiles = comptime!(shape.tiles());
    let pairs = comptime!(shape.pairs());
    let blocks = comptime!(shape.blocks());
    let lane = UNIT_POS_PLANE as usize;

    let mut lhs_digits = Array::<Vector<i32, W>>::new(comptime!(tiles * pairs));
    let column = lane / LANES;
    let block = segment * chunks + column / DIGITS / sides;
    #[unroll]
    for tile in 0..tiles {
        // Of a column without an LHS row the sums are not used.
        let side = min(tile * sides + column / DIGITS % sides, m - 1);
        #[unroll]
        for pair in 0..pairs {
            let at = digits_at(
                side,
                min(block, blocks - 1),
                pair,
                column % DIGITS,
                lane % LANES,
                shape,
            );
            lhs_digits[tile * pairs + pair] = lhs.digits[at];
        }
    }
    let mut sums = Array::<i32>::new(comptime!(tiles * 2));
    #[unroll]
    for i in 0..comptime!(tiles * 2) {
        sums[i] = 0i32;
    }
    let own_step = own_step(shape);
    #[unroll]
    for step in 0..chunks {
        let index = comptime!((slot * chunks + step) * 2);
        let upper = loaded.words[index];
        let lower = loaded.words[index + 1];
        #[unroll]
        for tile in 0..tiles {
            let found = products::<W>(upper, lower, &lhs_digits, tile, shape);
            #[unroll]
            for half in 0..2usize {
                let at = comptime!(tile * 2 + half);
                sums[at] = select(own_step == step, found[half], sums[at]);
            }
        }
        if next_output < columns {
            load_words::<F, W, H>(
                loaded,
                weights,
                next_output,
                columns,
                next_segment,
                step,
                slot,
                shape,
            );
        }
    }
    let own_block = segment * chunks + own_chunk(shape);
    let is_in = own_block < blocks;
    let own_block = min(own_block, blocks - 1);
    #[unroll]
    for half in 0..2usize {
        let scale = f32::cast_from(loaded.heads[slot * 2 + half].extract(0usize));
        let scale = select(is_in, scale, 0.0f32);
        let zero = if comptime!(shape.packing.asymmetric) {
            f32::cast_from(loaded.zeros[slot * 2 + half].extract(0usize))
        } else {
            f32::new(comptime!(shape.packing.middle()))
        };
        #[unroll]
        for tile in 0..tiles {
            let at = comptime!(tile * 2 + half);
            let side = min(tile * sides + lane % LANES % sides, m - 1);
            let of_lhs = side * blocks + own_block;
            let sum = f32::cast_from(sums[at]) - zero * lhs.sums[of_lhs];
            totals[at] = fma(sum, scale * lhs.units[of_lhs], totals[at]);
        }
    }
    if next_output < columns {
        load_scales::<F, W, H>(
            loaded,
            weights,
            next_output,
            columns,
            next_segment,
            slot,
            shape,
        );
    }
}
