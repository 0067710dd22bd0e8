use macerator::Simd;

use super::{
    element::{Widen, widen_end},
    lanes::{Floats, lanes, prefetch, splat, width},
};

/// Rows that are read side by side. More of them share a load of a query, as long as their sums
/// stay in registers.
const TILE_OF_WIDE: usize = 4;
const TILE: usize = 2;

/// What is done with adjacent rows for each query of a group.
pub(super) trait RowWork<S: Simd, E: Widen> {
    /// Handles `rows`, the first of which is row `first` of the page, for queries
    /// `query..query + G`.
    fn tile<const T: usize, const G: usize>(&mut self, rows: [&[E]; T], first: usize, query: usize);
}

/// Goes through rows of `n` elements for all queries of a group, so that each row comes from
/// memory once, and asks for `next` meanwhile.
#[inline(always)]
pub(super) fn for_each_tile<S: Simd, E: Widen>(
    rows: &[E],
    n: usize,
    group: usize,
    next: &[E],
    work: &mut impl RowWork<S, E>,
) {
    // Processors with the widest vectors have twice as many registers.
    if lanes::<S>() == 16 {
        tiles::<S, E, TILE_OF_WIDE>(rows, n, group, next, work);
    } else {
        tiles::<S, E, TILE>(rows, n, group, next, work);
    }
}

#[inline(always)]
fn tiles<S: Simd, E: Widen, const T: usize>(
    rows: &[E],
    n: usize,
    group: usize,
    next: &[E],
    work: &mut impl RowWork<S, E>,
) {
    let tiles = rows.chunks_exact(T * n);
    let first_single = rows.len() / (T * n) * T;
    let singles = tiles.remainder();
    let mut next = next.chunks(T * n);
    for (i, tile) in tiles.enumerate() {
        prefetch(next.next().unwrap_or_default());
        let mut rows: [&[E]; T] = [&[]; T];
        for t in 0..T {
            rows[t] = &tile[t * n..(t + 1) * n];
        }
        group_of_rows::<S, E, T>(rows, i * T, group, work);
    }
    for (i, row) in singles.chunks_exact(n).enumerate() {
        group_of_rows::<S, E, 1>([row], first_single + i, group, work);
    }
    for left in next {
        prefetch(left);
    }
}

#[inline(always)]
pub(super) fn group_of_rows<S: Simd, E: Widen, const T: usize>(
    rows: [&[E]; T],
    first: usize,
    group: usize,
    work: &mut impl RowWork<S, E>,
) {
    let mut query = 0;
    while query + 4 <= group {
        work.tile::<T, 4>(rows, first, query);
        query += 4;
    }
    if query + 2 <= group {
        work.tile::<T, 2>(rows, first, query);
        query += 2;
    }
    if query < group {
        work.tile::<T, 1>(rows, first, query);
    }
}

/// Dot products of `G` queries, laid end to end, with `T` rows, or with their squares.
#[inline(always)]
pub(super) fn dots<S: Simd, E: Widen, const T: usize, const G: usize, const SQUARED: bool>(
    queries: &[Floats<S>],
    rows: [&[E]; T],
) -> [[f32; T]; G] {
    let width = width::<S>();
    let vectors = queries.len() / G;
    let n = rows[0].len();
    let mut sums = [[splat::<S>(0.0); T]; G];
    // Arrays are filled in loops: the body of a closure would be compiled without the vector
    // instructions of this level.
    for pair in 0..n / width {
        let mut wide = [[splat::<S>(0.0); 2]; T];
        for t in 0..T {
            wide[t] = raised::<S, SQUARED>(E::widen(&rows[t][pair * width..]));
        }
        add_products(&mut sums, queries, vectors, pair, &wide);
    }
    if !n.is_multiple_of(width) {
        let pair = n / width;
        let mut wide = [[splat::<S>(0.0); 2]; T];
        for t in 0..T {
            wide[t] = raised::<S, SQUARED>(widen_end(&rows[t][pair * width..]));
        }
        add_products(&mut sums, queries, vectors, pair, &wide);
    }
    let mut dots = [[0.0; T]; G];
    for g in 0..G {
        for t in 0..T {
            dots[g][t] = sums[g][t].reduce_add();
        }
    }
    dots
}

#[inline(always)]
fn raised<S: Simd, const SQUARED: bool>(x: [Floats<S>; 2]) -> [Floats<S>; 2] {
    if SQUARED {
        [x[0] * x[0], x[1] * x[1]]
    } else {
        x
    }
}

#[inline(always)]
fn add_products<S: Simd, const T: usize, const G: usize>(
    sums: &mut [[Floats<S>; T]; G],
    queries: &[Floats<S>],
    vectors: usize,
    pair: usize,
    rows: &[[Floats<S>; 2]; T],
) {
    for g in 0..G {
        for half in 0..2 {
            let query = queries[g * vectors + 2 * pair + half];
            for t in 0..T {
                sums[g][t] = query.mul_add(rows[t][half], sums[g][t]);
            }
        }
    }
}

/// Adds `T` rows, weighted for each of `G` queries, to sums that lie end to end.
#[inline(always)]
pub(super) fn add_weighted<S: Simd, E: Widen, const T: usize, const G: usize>(
    weights: [[f32; T]; G],
    rows: [&[E]; T],
    sums: &mut [Floats<S>],
) {
    let width = width::<S>();
    let vectors = sums.len() / G;
    let n = rows[0].len();
    let mut factors = [[splat::<S>(0.0); T]; G];
    for g in 0..G {
        for t in 0..T {
            factors[g][t] = splat(weights[g][t]);
        }
    }
    for pair in 0..n / width {
        let mut wide = [[splat::<S>(0.0); 2]; T];
        for t in 0..T {
            wide[t] = E::widen(&rows[t][pair * width..]);
        }
        add_multiples(&factors, sums, vectors, pair, &wide);
    }
    if !n.is_multiple_of(width) {
        let pair = n / width;
        let mut wide = [[splat::<S>(0.0); 2]; T];
        for t in 0..T {
            wide[t] = widen_end(&rows[t][pair * width..]);
        }
        add_multiples(&factors, sums, vectors, pair, &wide);
    }
}

#[inline(always)]
fn add_multiples<S: Simd, const T: usize, const G: usize>(
    factors: &[[Floats<S>; T]; G],
    sums: &mut [Floats<S>],
    vectors: usize,
    pair: usize,
    rows: &[[Floats<S>; 2]; T],
) {
    for (g, factors) in factors.iter().enumerate() {
        let at = g * vectors + 2 * pair;
        let (mut low, mut high) = (sums[at], sums[at + 1]);
        for t in 0..T {
            low = factors[t].mul_add(rows[t][0], low);
            high = factors[t].mul_add(rows[t][1], high);
        }
        (sums[at], sums[at + 1]) = (low, high);
    }
}
