use rayon::prelude::*;

use super::{
    floats::{self, Float},
    integers::{self, IntegerRows, with_integer_rows},
    level::{Level, LevelName, Work},
    lhs::LhsBytes,
    matrices,
    weights::Weights,
};

/// Weight rows that are multiplied with a few LHS rows, before others of those.
pub(super) const TILE: usize = 4;

/// Bytes of weights below which threads cost more than they save.
const WORTH_THREADS: usize = 1 << 16;

/// Tasks of a thread, as threads do not all run at the same speed.
const TASKS_PER_THREAD: usize = 4;

/// LHS rows from which on weights are widened, a block of them at a time, and multiplied
/// as matrices of floats.
pub const MANY_ROWS: usize = 9;

/// `rows * weights^T`, with the highest level of vector instructions that the processor has.
///
/// Where there are fewer than [`MANY_ROWS`] rows and weights are integers, the rows are rounded to 8 bits,
/// each 32 channels with a scale of their own; otherwise sums are those of floats.
///
/// # Shapes
///
/// - rows: `[m, d_input]`
/// - output: `[m, d_output]`
///
/// # Panics
///
/// When the weights do not [take](Weights::takes) so many channels or are no whole rows of them.
pub fn product(rows: &[f32], d_input: usize, weights: Weights<'_>) -> Vec<f32> {
    if rows.len() < MANY_ROWS * d_input {
        product_at(LevelName::best(), rows, d_input, weights)
    } else {
        matrices::product(LevelName::best(), rows, d_input, weights)
    }
}

/// [`product`] of a few rows, at a given level of vector instructions.
///
/// # Shapes
///
/// - rows: `[m, d_input]`
/// - output: `[m, d_output]`
///
/// # Panics
///
/// As [`product`], and when the processor does not have the instructions.
pub fn product_at(
    level: LevelName,
    rows: &[f32],
    d_input: usize,
    weights: Weights<'_>,
) -> Vec<f32> {
    let n = weights.rows(d_input);
    let problem = Problem {
        level,
        rows,
        d_input,
        m: rows.len() / d_input,
        n,
        row_bytes: weights.row_bytes(d_input),
    };
    let sums = match weights {
        Weights::F32(weights) => problem.floats(weights),
        Weights::F16(weights) => problem.floats(weights),
        Weights::BF16(weights) => problem.floats(weights),
        _ => with_integer_rows!(weights, d_input, rows => problem.integers(rows)),
    };
    transposed(sums, problem.m)
}

/// `[n, m]` as `[m, n]`.
fn transposed(sums: Vec<f32>, m: usize) -> Vec<f32> {
    if m <= 1 {
        return sums;
    }
    let row = |row| sums.iter().skip(row).step_by(m).copied();
    (0..m).flat_map(row).collect()
}

/// What is multiplied.
#[derive(Clone, Copy)]
struct Problem<'a> {
    level: LevelName,
    rows: &'a [f32],
    d_input: usize,
    /// LHS rows.
    m: usize,
    /// Weight rows.
    n: usize,
    row_bytes: usize,
}

impl Problem<'_> {
    fn floats<F: Float>(self, weights: &[F]) -> Vec<f32> {
        self.tiles(FloatTiles {
            weights,
            lhs: self.rows,
            d_input: self.d_input,
        })
    }

    fn integers<W: IntegerRows>(self, weights: W) -> Vec<f32> {
        let lhs = self.level.run(InBytes {
            rows: self.rows,
            d_input: self.d_input,
            offset: W::OFFSET,
        });
        self.tiles(IntegerTiles { weights, lhs: &lhs })
    }

    fn tiles<T: Tiles>(self, tiles: T) -> Vec<f32> {
        let mut output = vec![0.0; self.n * self.m];
        if output.is_empty() {
            return output;
        }
        let run = |first, output: &mut [f32]| {
            self.level.run(Task {
                tiles,
                n: self.n,
                m: self.m,
                first,
                output,
            });
        };
        let threads = rayon::current_num_threads();
        if threads == 1 || self.n * self.row_bytes < WORTH_THREADS {
            run(0, &mut output);
        } else {
            let rows = self.n.div_ceil(threads * TASKS_PER_THREAD);
            let rows = rows.next_multiple_of(TILE);
            (output.par_chunks_mut(rows * self.m).enumerate())
                .for_each(|(task, output)| run(task * rows, output));
        }
        output
    }
}

/// LHS rows as bytes.
struct InBytes<'a> {
    rows: &'a [f32],
    d_input: usize,
    offset: u8,
}

impl Work for InBytes<'_> {
    type Output = LhsBytes;

    #[inline(always)]
    fn run<L: Level>(self) -> LhsBytes {
        LhsBytes::new(self.rows, self.d_input, self.offset)
    }
}

/// Products of a tile: [`TILE`] weight rows with `M` LHS rows, from `lhs` on.
trait Tiles: Copy + Send + Sync {
    fn tile<L: Level, const M: usize>(&self, rows: [usize; TILE], lhs: usize) -> [[f32; M]; TILE];
}

#[derive(Clone, Copy)]
struct FloatTiles<'a, F> {
    weights: &'a [F],
    lhs: &'a [f32],
    d_input: usize,
}

impl<F: Float> Tiles for FloatTiles<'_, F> {
    #[inline(always)]
    fn tile<L: Level, const M: usize>(&self, rows: [usize; TILE], lhs: usize) -> [[f32; M]; TILE] {
        floats::tile::<L, F, M>(self.weights, rows, self.lhs, self.d_input, lhs)
    }
}

#[derive(Clone, Copy)]
struct IntegerTiles<'a, W> {
    weights: W,
    lhs: &'a LhsBytes,
}

impl<W: IntegerRows> Tiles for IntegerTiles<'_, W> {
    #[inline(always)]
    fn tile<L: Level, const M: usize>(&self, rows: [usize; TILE], lhs: usize) -> [[f32; M]; TILE] {
        integers::tile::<L, W, M>(&self.weights, rows, self.lhs, lhs)
    }
}

/// A thread's weight rows, `first` and those that follow, and their outputs.
struct Task<'a, T> {
    tiles: T,
    n: usize,
    m: usize,
    first: usize,
    output: &'a mut [f32],
}

impl<T: Tiles> Task<'_, T> {
    #[inline(always)]
    fn write<L: Level, const M: usize>(
        tiles: T,
        rows: [usize; TILE],
        lhs: usize,
        m: usize,
        output: &mut [f32],
    ) {
        let sums = tiles.tile::<L, M>(rows, lhs);
        for (sums, output) in sums.iter().zip(output.chunks_exact_mut(m)) {
            output[lhs..lhs + M].copy_from_slice(sums);
        }
    }
}

impl<T: Tiles> Work for Task<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self) {
        let Self {
            tiles, n, m, first, ..
        } = self;
        for (i, output) in self.output.chunks_mut(TILE * m).enumerate() {
            let mut rows = [first + i * TILE; TILE];
            for (t, row) in rows.iter_mut().enumerate() {
                // A row past the end is the last one; what comes of it is not written.
                *row = (*row + t).min(n - 1);
            }
            let mut lhs = 0;
            if L::MAX_ROWS >= 4 {
                while lhs + 4 <= m {
                    Self::write::<L, 4>(tiles, rows, lhs, m, output);
                    lhs += 4;
                }
            }
            if L::MAX_ROWS >= 2 {
                while lhs + 2 <= m {
                    Self::write::<L, 2>(tiles, rows, lhs, m, output);
                    lhs += 2;
                }
            }
            while lhs < m {
                Self::write::<L, 1>(tiles, rows, lhs, m, output);
                lhs += 1;
            }
        }
    }
}
