//! The instructions that CubeCL does not have. Addresses are those of shared memory, in bytes.

use cubecl::{intrinsic, prelude::*};

use super::{
    super::ptx::{PtxOp, operands, plain},
    ROW_BYTES,
};

/// After the next barrier, products see what this unit has copied.
#[cube]
pub fn publish() {
    intrinsic!(|scope| plain(scope, "fence.proxy.async.shared::cta;"))
}

/// Begins to add the products of 64 rows of 64 channels and as many weight rows as there are `columns`.
/// Until they are complete, nothing else may touch the sums.
#[cube]
pub fn multiply(
    sums: &mut Array<f32>,
    rows: u32,
    weight_rows: u32,
    #[comptime] columns: usize,
    #[comptime] dtype: &'static str,
) {
    intrinsic!(|scope| {
        let n = sums.__expand_len_method(scope);
        let operands = vec![
            sums.__extract_list(scope),
            rows.read_value(scope),
            weight_rows.read_value(scope),
        ];
        let text = products(n, columns, dtype);
        let op = PtxOp::with_sums(scope.ctx_mut(), &text, [n, 0], operands);
        scope.register(&op);
    })
}

/// Adds the products of 64 rows in registers, in the form that sums have after rounding, and of `depth` rows of
/// values of so many `columns` each, in blocks of 64 columns one after the other. Waits for them.
#[cube]
pub fn multiply_words(
    sums: &mut Array<f32>,
    words: &Array<u32>,
    values: u32,
    #[comptime] depth: usize,
    #[comptime] columns: usize,
    #[comptime] dtype: &'static str,
) {
    intrinsic!(|scope| {
        let n = sums.__expand_len_method(scope);
        let n_words = words.__expand_len_method(scope);
        let operands = vec![
            sums.__extract_list(scope),
            words.__extract_list(scope),
            values.read_value(scope),
        ];
        let reading = Reading::Across { rows: depth };
        let text = products_of_words([n, n_words], reading, columns, dtype);
        let op = PtxOp::with_sums(scope.ctx_mut(), &text, [n, n_words], operands);
        scope.register(&op);
    })
}

/// Begins to add the products of 64 rows of 64 channels in registers, 16 words of two channels each, and as many
/// rows in shared memory as there are `columns`. Until they are complete, nothing else may touch the sums; the
/// words are kept as long by what assigns registers.
#[cube]
pub fn multiply_registers(
    sums: &mut Array<f32>,
    words: &Array<u32>,
    rows: u32,
    #[comptime] columns: usize,
    #[comptime] dtype: &'static str,
) {
    intrinsic!(|scope| {
        let n = sums.__expand_len_method(scope);
        let n_words = words.__expand_len_method(scope);
        let operands = vec![
            sums.__extract_list(scope),
            words.__extract_list(scope),
            rows.read_value(scope),
        ];
        let text = products_of_words([n, n_words], Reading::Along, columns, dtype);
        let op = PtxOp::with_sums(scope.ctx_mut(), &text, [n, n_words], operands);
        scope.register(&op);
    })
}

/// 2 to the power of `x`, to within 2 units of the last place.
#[cube]
pub fn exp2(x: f32) -> f32 {
    f32::reinterpret(exp2_of_bits(u32::reinterpret(x)))
}

#[cube]
fn exp2_of_bits(bits: u32) -> u32 {
    intrinsic!(|scope| {
        let word = u32::__expand_as_type(scope);
        let bits = bits.read_value(scope);
        let op = PtxOp::pure(scope.ctx_mut(), "ex2.approx.ftz.f32 $0, $1;", bits, word);
        scope.register(&op);
        op.result(scope.ctx()).into()
    })
}

/// Waits until at most so many steps of this group's products are under way.
#[cube]
pub fn wait_for_products(#[comptime] pending: usize) {
    intrinsic!(|scope| plain(scope, &format!("wgmma.wait_group.sync.aligned {pending};")))
}

/// Waits for all products of the group.
#[cube]
pub fn complete(sums: &mut Array<f32>) {
    intrinsic!(|scope| {
        let n = sums.__expand_len_method(scope);
        let operands = vec![sums.__extract_list(scope)];
        let text = "wgmma.wait_group.sync.aligned 0;";
        let op = PtxOp::with_sums(scope.ctx_mut(), text, [n, 0], operands);
        scope.register(&op);
    })
}

/// Four instructions of 16 channels, 32 bytes, each. A matrix in shared memory is described by 64 bits:
/// its address in the low half, in units of 16 bytes; in the high half that eight rows take 64 of these
/// units, and that their parts are permuted in rows of 128 bytes.
fn products(n: usize, columns: usize, dtype: &str) -> String {
    let sums = operands(0, n);
    // After the sums as outputs and as inputs.
    let (rows, weight_rows) = (2 * n, 2 * n + 1);
    let mut text = format!(
        "{{\n\
         .reg .b32 low;\n\
         .reg .b64 a, b;\n\
         shr.u32 low, ${rows}, 4;\n\
         mov.b64 a, {{low, 0x40000040}};\n\
         shr.u32 low, ${weight_rows}, 4;\n\
         mov.b64 b, {{low, 0x40000040}};\n\
         wgmma.fence.sync.aligned;\n"
    );
    for step in 0..4 {
        if step > 0 {
            text += "add.s64 a, a, 2;\nadd.s64 b, b, 2;\n";
        }
        text += &format!(
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{dtype}.{dtype} \
             {{{sums}}}, a, b, 1, 1, 1, 0, 0;\n"
        );
    }
    text + "wgmma.commit_group.sync.aligned;\n}"
}

/// How instructions read a matrix in shared memory.
enum Reading {
    /// Along its rows, of 64 channels each.
    Along,
    /// Across its rows, so many, in blocks of 64 columns.
    Across { rows: usize },
}

/// An instruction for each four words of a unit, 16 channels of 64 rows, and a matrix that is described as for
/// [`products`]. Where it is read across, the low half of its description has the distance of its blocks as well, in
/// units of 16 bytes from bit 16 on, and products are waited for.
fn products_of_words(
    [n, words]: [usize; 2],
    reading: Reading,
    columns: usize,
    dtype: &str,
) -> String {
    let sums = operands(0, n);
    let matrix = 2 * n + words;
    let (distance, step_units, transposed, wait) = match reading {
        Reading::Along => (String::new(), 2, 0, ""),
        Reading::Across { rows } => {
            let block = (rows * ROW_BYTES / 16) << 16;
            let distance = format!("or.b32 low, low, {block};\n");
            (distance, 128, 1, "wgmma.wait_group.sync.aligned 0;\n")
        }
    };
    let mut text = format!(
        "{{\n\
         .reg .b32 low;\n\
         .reg .b64 b;\n\
         shr.u32 low, ${matrix}, 4;\n\
         {distance}\
         mov.b64 b, {{low, 0x40000040}};\n\
         wgmma.fence.sync.aligned;\n"
    );
    for step in 0..words / 4 {
        if step > 0 {
            text += &format!("add.s64 b, b, {step_units};\n");
        }
        let words = operands(2 * n + 4 * step, 4);
        text += &format!(
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{dtype}.{dtype} \
             {{{sums}}}, {{{words}}}, b, 1, 1, 1, {transposed};\n"
        );
    }
    format!("{text}wgmma.commit_group.sync.aligned;\n{wait}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_take_four_words_each_after_the_sums_and_go_on_along_a_matrix() {
        let text = products_of_words([4, 8], Reading::Along, 8, "f16");
        let expected = "{\n\
            .reg .b32 low;\n\
            .reg .b64 b;\n\
            shr.u32 low, $16, 4;\n\
            mov.b64 b, {low, 0x40000040};\n\
            wgmma.fence.sync.aligned;\n\
            wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {$0, $1, $2, $3}, {$8, $9, $10, $11}, b, 1, 1, 1, 0;\n\
            add.s64 b, b, 2;\n\
            wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {$0, $1, $2, $3}, {$12, $13, $14, $15}, b, 1, 1, 1, 0;\n\
            wgmma.commit_group.sync.aligned;\n\
            }";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_matrix_that_is_read_across_has_the_distance_of_its_blocks_and_is_waited_for() {
        let text = products_of_words([4, 8], Reading::Across { rows: 32 }, 8, "bf16");
        let expected = "{\n\
            .reg .b32 low;\n\
            .reg .b64 b;\n\
            shr.u32 low, $16, 4;\n\
            or.b32 low, low, 16777216;\n\
            mov.b64 b, {low, 0x40000040};\n\
            wgmma.fence.sync.aligned;\n\
            wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0, $1, $2, $3}, {$8, $9, $10, $11}, b, 1, 1, 1, 1;\n\
            add.s64 b, b, 128;\n\
            wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {$0, $1, $2, $3}, {$12, $13, $14, $15}, b, 1, 1, 1, 1;\n\
            wgmma.commit_group.sync.aligned;\n\
            wgmma.wait_group.sync.aligned 0;\n\
            }";
        assert_eq!(text, expected);
    }
}
