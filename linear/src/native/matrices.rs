//! Products with many rows: every weight is widened once, and what is widened is multiplied while it is
//! in the cache.

use rayon::prelude::*;

use super::{
    floats::{self, Float},
    integers::{self, IntegerRows, with_integer_rows},
    level::{Level, LevelName, Work},
    weights::Weights,
};

/// Bytes of widened weights that a thread has at a time.
const AT_ONCE: usize = 1 << 18;

/// Fewest weight rows at a time: the LHS is read once for each so many.
const FEWEST_ROWS: usize = 64;

/// `rows * weights^T`, `[m, d_output]`.
pub(super) fn product(
    level: LevelName,
    rows: &[f32],
    d_input: usize,
    weights: Weights<'_>,
) -> Vec<f32> {
    let n = weights.rows(d_input);
    let m = rows.len() / d_input;
    let mut output = vec![0.0; m * n];
    let matrices = Matrices {
        level,
        lhs: rows,
        d_input,
        m,
        n,
        output: Output(output.as_mut_ptr()),
    };
    match weights {
        Weights::F32(weights) => matrices.multiply(weights, 0, gemm::Parallelism::Rayon(0)),
        Weights::F16(weights) => matrices.blocks(FloatRows { weights, d_input }),
        Weights::BF16(weights) => matrices.blocks(FloatRows { weights, d_input }),
        _ => with_integer_rows!(weights, d_input, rows => matrices.blocks(Integers(rows))),
    }
    output
}

/// What is multiplied.
struct Matrices<'a> {
    level: LevelName,
    /// `[m, d_input]`
    lhs: &'a [f32],
    d_input: usize,
    m: usize,
    n: usize,
    output: Output,
}

/// `[m, n]`, of which every task writes its own columns.
struct Output(*mut f32);

// SAFETY: it is written through `Matrices::multiply` alone, by each task to columns of its own.
unsafe impl Sync for Output {}

impl Matrices<'_> {
    /// Widens blocks of weight rows and multiplies with each.
    fn blocks<R: WidenedRows>(&self, weights: R) {
        let at_once = (AT_ONCE / size_of::<f32>() / self.d_input).max(FEWEST_ROWS);
        let shared = self.n.div_ceil(rayon::current_num_threads());
        let at_once = at_once.min(shared.max(FEWEST_ROWS));
        let blocks = self.n.div_ceil(at_once);
        (0..blocks)
            .into_par_iter()
            .for_each_init(Vec::new, |widened, block| {
                let first = block * at_once;
                let rows = at_once.min(self.n - first);
                widened.resize(rows * self.d_input, 0.0);
                self.level.run(Widening {
                    weights: &weights,
                    first,
                    output: widened,
                    d_input: self.d_input,
                });
                self.multiply(widened, first, gemm::Parallelism::None);
            });
    }

    /// Writes the columns of weight rows from `first` on.
    fn multiply(&self, weights: &[f32], first: usize, parallelism: gemm::Parallelism) {
        let rows = weights.len() / self.d_input;
        assert!(
            first + rows <= self.n && self.lhs.len() == self.m * self.d_input,
            "columns of a product: expected {} at most, found {}",
            self.n,
            first + rows
        );
        let (d_input, n) = (self.d_input as isize, self.n as isize);
        // SAFETY: the LHS is [m, d_input], the weights are [rows, d_input], and the output has
        // columns from `first` on as many as there are weight rows, which were asserted above.
        unsafe {
            gemm::gemm(
                self.m,
                rows,
                self.d_input,
                self.output.0.add(first),
                1,
                n,
                false,
                self.lhs.as_ptr(),
                1,
                d_input,
                weights.as_ptr(),
                d_input,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// Weight rows that can be widened.
trait WidenedRows: Sync {
    fn widen<L: Level>(&self, row: usize, output: &mut [f32]);
}

struct FloatRows<'a, F> {
    weights: &'a [F],
    d_input: usize,
}

impl<F: Float> WidenedRows for FloatRows<'_, F> {
    #[inline(always)]
    fn widen<L: Level>(&self, row: usize, output: &mut [f32]) {
        floats::widen::<L, F>(&self.weights[row * self.d_input..][..self.d_input], output);
    }
}

struct Integers<W>(W);

impl<W: IntegerRows> WidenedRows for Integers<W> {
    #[inline(always)]
    fn widen<L: Level>(&self, row: usize, output: &mut [f32]) {
        integers::widen::<L, W>(&self.0, row, output);
    }
}

struct Widening<'a, R> {
    weights: &'a R,
    first: usize,
    output: &'a mut [f32],
    d_input: usize,
}

impl<R: WidenedRows> Work for Widening<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self) {
        for (i, output) in self.output.chunks_exact_mut(self.d_input).enumerate() {
            self.weights.widen::<L>(self.first + i, output);
        }
    }
}
