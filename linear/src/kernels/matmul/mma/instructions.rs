//! Fragments of a plane: 16 channels of its rows and of its weight rows, from shared memory to registers and from there
//! to the tensor cores.
//!
//! Of eight rows of eight channels, `ldmatrix` gives lane `4 g + t` the channels `2 t` and `2 t + 1` of row `g`, a word.
//! An instruction takes four of them of rows, eight rows and then the other eight, first the lower channels, and two of
//! eight weight rows, first the lower channels.

use cubecl::{intrinsic, prelude::*};

use super::{
    super::super::{
        matrix_instruction::{COLUMNS, DEPTH, ROWS},
        ptx::{PtxOp, operands},
    },
    tiles::Tiles,
};

/// Words that a load of four matrices gives a lane, which are also those of 16 rows, and of 16 weight rows.
pub(super) const LOADED: usize = 4;
/// Sums of a lane of an instruction.
pub(super) const SUMS: usize = 4;

/// Loads the fragments of 16 channels. `rows` and `weight` are where this lane's first load of them lies.
#[cube]
pub(super) fn load(words: &mut Array<u32>, rows: u32, weight: u32, #[comptime] tiles: Tiles) {
    intrinsic!(|scope| {
        let operands = vec![
            words.__extract_list(scope),
            rows.read_value(scope),
            weight.read_value(scope),
        ];
        let op = PtxOp::loading(scope.ctx_mut(), &loads(tiles), tiles.words(), operands);
        scope.register(&op);
    })
}

/// Adds the products of the fragments of 16 channels.
#[cube]
pub(super) fn multiply(sums: &mut Array<f32>, words: &Array<u32>, #[comptime] tiles: Tiles) {
    intrinsic!(|scope| {
        let counts = [tiles.sums(), tiles.words()];
        let operands = vec![sums.__extract_list(scope), words.__extract_list(scope)];
        let op = PtxOp::with_sums(scope.ctx_mut(), &products(tiles), counts, operands);
        scope.register(&op);
    })
}

/// Loads of 16 rows each, and then of 16 weight rows each.
fn loads(tiles: Tiles) -> String {
    let [rows, weight] = tiles.loads();
    let address = tiles.words();
    let load = |i: usize| {
        let (address, line) = match i < rows {
            true => (address, i),
            false => (address + 1, i - rows),
        };
        let words = operands(i * LOADED, LOADED);
        let distance = line * ROWS * tiles.staging().row_bytes();
        format!("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{words}}}, [${address}+{distance}];\n")
    };
    (0..rows + weight).map(load).collect()
}

/// Instructions of 16 rows and 8 weight rows each. Neighbours have a side in common, which the tensor cores keep.
fn products(tiles: Tiles) -> String {
    let [rows, weight] = tiles.loads();
    let columns = weight * (ROWS / COLUMNS);
    let first_word = 2 * tiles.sums();
    let first_weight = first_word + rows * LOADED;
    let dtype = tiles.dtype;
    let product = |at: usize| {
        let (i, j) = (at / columns, at % columns);
        let j = if i % 2 == 0 { j } else { columns - 1 - j };
        let sums = operands((i * columns + j) * SUMS, SUMS);
        let left = operands(first_word + i * LOADED, LOADED);
        let right = operands(first_weight + j * LOADED / 2, LOADED / 2);
        format!(
            "mma.sync.aligned.m{ROWS}n{COLUMNS}k{DEPTH}.row.col.f32.{dtype}.{dtype}.f32 \
             {{{sums}}}, {{{left}}}, {{{right}}}, {{{sums}}};\n"
        )
    };
    (0..rows * columns).map(product).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plane with 16 rows and 16 weight rows.
    const SMALL: Tiles = Tiles {
        planes: [1, 1],
        plane: [16, 16],
        parts: 4,
        stages: 3,
        band: 1,
        dtype: "bf16",
    };

    #[test]
    fn rows_are_loaded_before_weight_rows() {
        let expected = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$8+0];\n\
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$4, $5, $6, $7}, [$9+0];\n";
        assert_eq!(loads(SMALL), expected);
    }

    #[test]
    fn instructions_take_words_after_the_sums_and_turn_round_at_the_end_of_a_row() {
        let instruction = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
        let expected = format!(
            "{instruction} {{$0, $1, $2, $3}}, {{$16, $17, $18, $19}}, {{$20, $21}}, {{$0, $1, $2, $3}};\n\
             {instruction} {{$4, $5, $6, $7}}, {{$16, $17, $18, $19}}, {{$22, $23}}, {{$4, $5, $6, $7}};\n"
        );
        assert_eq!(products(SMALL), expected);

        let tall = Tiles {
            plane: [32, 16],
            ..SMALL
        };
        let text = products(tall);
        let last = text.lines().last().unwrap();
        let expected = format!(
            "{instruction} {{$8, $9, $10, $11}}, {{$36, $37, $38, $39}}, {{$40, $41}}, {{$8, $9, $10, $11}};"
        );
        assert_eq!(last, expected);
    }
}
