use std::sync::Mutex;

use super::{
    floats::{self, Float},
    integers::{self, IntegerRows, with_integer_rows},
    level::{Level, LevelName, Work},
    lhs::LhsBytes,
    matrices, team,
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
    product_at(LevelName::best(), rows, d_input, weights)
}

/// [`product`] at a given level of vector instructions. What multiplies matrices of floats, where there are many
/// rows, chooses its own instructions: the level is that of widening weights then.
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
    stacked_product_at(level, rows, d_input, &[weights])
}

/// [`product`] with several weights: the outputs of a row lie one after the other. A few rows go through all
/// weights at once.
///
/// # Shapes
///
/// - rows: `[m, d_input]`
/// - output: `[m, d_output]`, where `d_output` is the sum of those of all weights
///
/// # Panics
///
/// As [`product`].
pub fn stacked_product(rows: &[f32], d_input: usize, weights: &[Weights<'_>]) -> Vec<f32> {
    stacked_product_at(LevelName::best(), rows, d_input, weights)
}

fn stacked_product_at(
    level: LevelName,
    rows: &[f32],
    d_input: usize,
    weights: &[Weights<'_>],
) -> Vec<f32> {
    if rows.len() < MANY_ROWS * d_input {
        return few_rows(level, rows, d_input, weights);
    }
    let [weights] = weights else {
        let parts = weights.iter().map(|&weights| {
            let part = matrices::product(level, rows, d_input, weights);
            (weights.rows(d_input), part)
        });
        return side_by_side(&parts.collect::<Vec<_>>(), rows.len() / d_input);
    };
    matrices::product(level, rows, d_input, *weights)
}

/// Outputs of `m` rows in parts of so many channels each, as whole rows.
pub(crate) fn side_by_side(parts: &[(usize, Vec<f32>)], m: usize) -> Vec<f32> {
    let mut stacked = Vec::with_capacity(parts.iter().map(|(_, part)| part.len()).sum());
    for row in 0..m {
        for (n, part) in parts {
            stacked.extend_from_slice(&part[row * n..][..*n]);
        }
    }
    stacked
}

fn few_rows(level: LevelName, rows: &[f32], d_input: usize, weights: &[Weights<'_>]) -> Vec<f32> {
    let m = rows.len() / d_input;
    let mut lhs = Lhs {
        level,
        rows,
        d_input,
        bytes: Vec::new(),
    };
    for weights in weights {
        if let Some(offset) = weights.offset() {
            lhs.prepare(offset);
        }
    }
    let parts: Vec<_> = (weights.iter())
        .map(|weights| {
            (
                weights.rows(d_input),
                weights.row_bytes(d_input),
                lhs.part(weights),
            )
        })
        .collect();
    let bytes: usize = parts.iter().map(|(n, row_bytes, _)| n * row_bytes).sum();
    let mut output = vec![0.0; parts.iter().map(|(n, ..)| n * m).sum()];
    if output.is_empty() {
        return output;
    }
    let tasks = match rayon::current_num_threads() {
        1 => 1,
        _ if bytes < WORTH_THREADS => 1,
        threads => threads * TASKS_PER_THREAD,
    };
    let mut pieces = Vec::with_capacity(tasks + parts.len());
    let mut left = &mut output[..];
    for (n, row_bytes, part) in &parts {
        let of_task = (bytes.div_ceil(tasks) / row_bytes)
            .max(1)
            .next_multiple_of(TILE);
        for first in (0..*n).step_by(of_task) {
            let (own, others) = left.split_at_mut(of_task.min(n - first) * m);
            pieces.push(Mutex::new((part, first, own)));
            left = others;
        }
    }
    let run = |piece: usize| {
        let mut piece = pieces[piece].lock().expect("a piece is done once");
        let (part, first, output) = &mut *piece;
        part(m, *first, output);
    };
    if tasks == 1 {
        (0..pieces.len()).for_each(run);
    } else {
        team::for_each(pieces.len(), run);
    }
    drop(pieces);
    drop(parts);
    transposed(output, m)
}

/// `[n, m]` as `[m, n]`.
fn transposed(sums: Vec<f32>, m: usize) -> Vec<f32> {
    if m <= 1 {
        return sums;
    }
    let row = |row| sums.iter().skip(row).step_by(m).copied();
    (0..m).flat_map(row).collect()
}

/// What weights are multiplied with.
struct Lhs<'a> {
    level: LevelName,
    rows: &'a [f32],
    d_input: usize,
    /// The rows in bytes, by what the weights' integers are too large by.
    bytes: Vec<(u8, LhsBytes)>,
}

/// Writes the products of weight rows from one on, `[n, m]`, given `m`.
type Part<'a> = Box<dyn Fn(usize, usize, &mut [f32]) + Sync + 'a>;

impl Lhs<'_> {
    fn prepare(&mut self, offset: u8) {
        if self.bytes.iter().all(|(known, _)| *known != offset) {
            let bytes = self.level.run(InBytes {
                rows: self.rows,
                d_input: self.d_input,
                offset,
            });
            self.bytes.push((offset, bytes));
        }
    }

    fn part<'a>(&'a self, weights: &Weights<'a>) -> Part<'a> {
        match *weights {
            Weights::F32(weights) => self.floats(weights),
            Weights::F16(weights) => self.floats(weights),
            Weights::BF16(weights) => self.floats(weights),
            weights => {
                let n = weights.rows(self.d_input);
                with_integer_rows!(weights, self.d_input, rows => self.integers(rows, n))
            }
        }
    }

    fn floats<'a, F: Float>(&'a self, weights: &'a [F]) -> Part<'a> {
        let tiles = FloatTiles {
            weights,
            lhs: self.rows,
            d_input: self.d_input,
        };
        self.tiles(tiles, weights.len() / self.d_input)
    }

    fn integers<'a, W: IntegerRows + 'a>(&'a self, weights: W, n: usize) -> Part<'a> {
        let bytes = self.bytes.iter().find(|(offset, _)| *offset == W::OFFSET);
        let (_, lhs) = bytes.expect("rows are in bytes for the offsets of all weights");
        self.tiles(IntegerTiles { weights, lhs }, n)
    }

    fn tiles<'a, T: Tiles + 'a>(&self, tiles: T, n: usize) -> Part<'a> {
        let level = self.level;
        Box::new(move |m, first, output| {
            level.run(Task {
                tiles,
                n,
                m,
                first,
                output,
            });
        })
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
