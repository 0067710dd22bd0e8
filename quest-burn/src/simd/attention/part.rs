use macerator::Simd;

use super::super::{
    element::{Widen, arrange, restore, vectors_of},
    lanes::{Floats, flat, flat_mut, lanes, splat},
    pool::Pool,
    rows::{RowWork, add_weighted, dots, for_each_tile},
    softmax::{MASKED, exponentials, highest},
};

/// The pages of a list that one task reads.
pub(super) struct PartOfList<'a> {
    /// The KV head.
    pub head: usize,
    /// Pool pages.
    pub pages: &'a [u32],
    /// Rows of the last of them that hold a token.
    pub rows_of_last: usize,
}

impl<'a> PartOfList<'a> {
    /// The rows of a page that hold a token.
    #[inline(always)]
    fn rows<E: Widen>(&self, pool: Pool<'a, E>, i: usize) -> &'a [E] {
        let rows = pool.page(self.pages[i] as usize, self.head);
        if i + 1 == self.pages.len() {
            &rows[..self.rows_of_last * pool.channels()]
        } else {
            rows
        }
    }
}

/// For each query: highest score, sum of weights, weighted sum of values.
///
/// Pages come in the outer loop and lists in the inner one, since the heads of a page lie next to
/// one another.
#[macerator::with_simd]
pub fn attend_to_part<'a, S: Simd, E: Widen>(
    query: &[f32],
    keys: Pool<'a, E>,
    values: Pool<'a, E>,
    lists: &'a [PartOfList<'a>],
) -> Vec<f32> {
    let head_dim = keys.channels();
    let group = query.len() / head_dim / lists.len();
    let vectors = vectors_of::<S>(head_dim);
    let queries = arrange::<S, E>(query, head_dim);
    let n_pages = lists[0].pages.len();
    let score_vectors = (n_pages * keys.rows()).div_ceil(lanes::<S>());
    let n_queries = lists.len() * group;
    let mut scores = vec![splat::<S>(MASKED); n_queries * score_vectors];
    for i in 0..n_pages {
        for (l, list) in lists.iter().enumerate() {
            let next = following(lists, i, l).map_or(&[][..], |(i, l)| lists[l].rows(keys, i));
            let mut work = Scores {
                queries: &queries[l * group * vectors..][..group * vectors],
                scores: flat_mut(&mut scores[l * group * score_vectors..][..group * score_vectors]),
                group,
                offset: i * keys.rows(),
                scales: keys.scales(list.pages[i] as usize, list.head),
            };
            for_each_tile(list.rows(keys, i), head_dim, group, next, &mut work);
        }
    }

    let mut results = vec![0.0; n_queries * (head_dim + 2)];
    for (scores, result) in scores
        .chunks_exact_mut(score_vectors)
        .zip(results.chunks_exact_mut(head_dim + 2))
    {
        result[0] = highest(scores);
        result[1] = exponentials(scores, result[0]);
    }

    let mut sums = vec![splat::<S>(0.0); n_queries * vectors];
    for i in 0..n_pages {
        for (l, list) in lists.iter().enumerate() {
            let next = following(lists, i, l).map_or(&[][..], |(i, l)| lists[l].rows(values, i));
            let mut work = Values {
                weights: flat(&scores[l * group * score_vectors..][..group * score_vectors]),
                sums: &mut sums[l * group * vectors..][..group * vectors],
                group,
                offset: i * keys.rows(),
                scales: values.scales(list.pages[i] as usize, list.head),
            };
            for_each_tile(list.rows(values, i), head_dim, group, next, &mut work);
        }
    }
    for (sums, result) in sums
        .chunks_exact(vectors)
        .zip(results.chunks_exact_mut(head_dim + 2))
    {
        restore::<S, E>(flat(sums), &mut result[2..]);
    }
    results
}

/// Which page of which list comes after page `i` of list `l`.
#[inline(always)]
fn following(lists: &[PartOfList<'_>], i: usize, l: usize) -> Option<(usize, usize)> {
    if l + 1 < lists.len() {
        Some((i, l + 1))
    } else {
        (i + 1 < lists[0].pages.len()).then_some((i + 1, 0))
    }
}

/// Scores of a page's keys for the queries of a list.
struct Scores<'a, S: Simd> {
    queries: &'a [Floats<S>],
    scores: &'a mut [f32],
    group: usize,
    /// Tokens before the page.
    offset: usize,
    /// Of the page's rows, where rows have them.
    scales: &'a [f32],
}

impl<S: Simd, E: Widen> RowWork<S, E> for Scores<'_, S> {
    #[inline(always)]
    fn tile<const T: usize, const G: usize>(
        &mut self,
        rows: [&[E]; T],
        first: usize,
        query: usize,
    ) {
        let vectors = self.queries.len() / self.group;
        let per_query = self.scores.len() / self.group;
        let queries = &self.queries[query * vectors..(query + G) * vectors];
        let mut dots = dots::<S, E, T, G, false>(queries, rows);
        if E::SCALED {
            for dots in &mut dots {
                for (dot, scale) in dots.iter_mut().zip(&self.scales[first..first + T]) {
                    *dot *= scale;
                }
            }
        }
        for (g, dots) in dots.iter().enumerate() {
            let at = (query + g) * per_query + self.offset + first;
            self.scores[at..at + T].copy_from_slice(dots);
        }
    }
}

/// Weighted sums of a page's values for the queries of a list.
struct Values<'a, S: Simd> {
    weights: &'a [f32],
    sums: &'a mut [Floats<S>],
    group: usize,
    /// Tokens before the page.
    offset: usize,
    /// Of the page's rows, where rows have them.
    scales: &'a [f32],
}

impl<S: Simd, E: Widen> RowWork<S, E> for Values<'_, S> {
    #[inline(always)]
    fn tile<const T: usize, const G: usize>(
        &mut self,
        rows: [&[E]; T],
        first: usize,
        query: usize,
    ) {
        let vectors = self.sums.len() / self.group;
        let per_query = self.weights.len() / self.group;
        let mut weights = [[0.0; T]; G];
        for (g, weights) in weights.iter_mut().enumerate() {
            let at = (query + g) * per_query + self.offset + first;
            weights.copy_from_slice(&self.weights[at..at + T]);
            if E::SCALED {
                for (weight, scale) in weights.iter_mut().zip(&self.scales[first..first + T]) {
                    *weight *= scale;
                }
            }
        }
        let sums = &mut self.sums[query * vectors..(query + G) * vectors];
        add_weighted::<S, E, T, G>(weights, rows, sums);
    }
}
