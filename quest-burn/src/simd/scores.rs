use std::{marker::PhantomData, ops::Range};

use burn::tensor::Tensor;
use macerator::Simd;

use super::{
    element::{Element, arrange},
    int8,
    int8::Packed,
    lanes::{Floats, lanes, prefetch},
    parallel, pool,
    pool::Pool,
    rows::{RowWork, dots, group_of_rows},
    with_element,
};
use crate::{
    cache::{Int8Digests, LayerCache, Step},
    digest::{NativeDigest, SCALAR_CHANNELS, with_digest},
    pages::{GroupRule, PageScoring},
};

/// Pages that one task scores.
const PAGES: usize = 128;

/// [`crate::ops::page_scores`].
pub(crate) fn page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    scoring: PageScoring,
) -> Tensor<3> {
    let [batch, n_heads, _] = query.dims();
    let [_, n_kv_heads, _, _] = cache.pool.digests.rows.dims();
    let device = query.device();
    let scores = scores_of_all(&pool::floats(query), n_heads, cache, step, scoring);
    let lists = scoring.lists(n_heads, n_kv_heads);
    pool::tensor(scores, [batch, lists, step.max_pages()], &device)
}

/// `[batch, lists, max_pages]` from queries `[batch, n_heads, head_dim]`.
pub(super) fn scores_of_all(
    query: &[f32],
    n_heads: usize,
    cache: &LayerCache,
    step: &Step,
    scoring: PageScoring,
) -> Vec<f32> {
    let problem = Problem {
        query,
        n_heads,
        n_kv_heads: cache.pool.digests.rows.dims()[1],
        head_dim: cache.pool.head_dim(),
        step,
        scoring,
    };
    let deviations = cache.pool.digests.kind.deviations_or(scoring.deviations);
    let scored = Scored {
        scoring,
        deviations: deviations.to_f32(),
    };
    if let Some(Int8Digests { words, scales }) = cache.pool.digests.int8.clone() {
        let (words, scales) = (pool::primitive(words), pool::primitive(scales));
        let packed = Packed::new(&words, &scales);
        return with_digest!(cache.pool.digests.kind, D => {
            problem.scores(|query, pages| {
                int8::score_pages::<D>(query, packed, pages, scored, PhantomData)
            })
        });
    }
    let digests = pool::primitive(cache.pool.digests.rows.clone());
    with_element!(cache.pool.digests.rows.dtype(), E => {
        let digests = Pool::<E>::new(&digests);
        with_digest!(cache.pool.digests.kind, D => {
            problem.scores(|query, pages| score_pages::<E, D>(query, digests, pages, scored, PhantomData))
        })
    })
}

/// How scores are made of products.
#[derive(Clone, Copy)]
pub(super) struct Scored {
    pub scoring: PageScoring,
    /// What deviations are multiplied by.
    pub deviations: f32,
}

impl Scored {
    /// What the score of a list is before any query head is seen.
    pub(super) fn start(self) -> f32 {
        match self.scoring.group_rule {
            GroupRule::Max => f32::MIN,
            GroupRule::Mean => 0.0,
        }
    }

    /// Adds the score of one of `group` query heads to that of its list.
    #[inline(always)]
    pub(super) fn add(self, score: &mut f32, found: f32, group: usize) {
        *score = match (self.scoring.is_shared(), self.scoring.group_rule) {
            (false, _) => found,
            (true, GroupRule::Max) => score.max(found),
            (true, GroupRule::Mean) => *score + found / group as f32,
        };
    }
}

/// What is scored, whatever form the digests have.
struct Problem<'a> {
    query: &'a [f32],
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    step: &'a Step,
    scoring: PageScoring,
}

impl Problem<'_> {
    /// `[batch, lists, max_pages]` from the scores `[lists, pages]` of a sequence's query heads for
    /// some of its pages.
    fn scores(&self, score: impl Fn(&[f32], &[u32]) -> Vec<f32> + Send + Sync) -> Vec<f32> {
        let &Self {
            query,
            n_heads,
            n_kv_heads,
            head_dim,
            step,
            scoring,
        } = self;
        let of_sequence = n_heads * head_dim;
        let max_pages = step.max_pages();
        let tasks = (0..step.batch())
            .flat_map(|sequence| {
                let n = step.pages(sequence).len();
                (0..n)
                    .step_by(PAGES)
                    .map(move |first| (sequence, first..n.min(first + PAGES)))
            })
            .collect::<Vec<(usize, Range<usize>)>>();
        let n_pages = tasks.iter().map(|(_, pages)| pages.len()).sum::<usize>();
        let elements = n_pages * n_kv_heads * 2 * head_dim;
        let parts = parallel::map(tasks.clone(), elements, |(sequence, pages)| {
            score(
                &query[sequence * of_sequence..][..of_sequence],
                &step.pages(sequence)[pages],
            )
        });

        let lists = scoring.lists(n_heads, n_kv_heads);
        // What is past a sequence's pages is never read.
        let mut scores = vec![f32::MIN; step.batch() * lists * max_pages];
        for ((sequence, pages), part) in tasks.iter().zip(parts) {
            let of_sequence = &mut scores[sequence * lists * max_pages..][..lists * max_pages];
            let rows = of_sequence.chunks_exact_mut(max_pages);
            for (row, part) in rows.zip(part.chunks_exact(pages.len())) {
                row[pages.clone()].copy_from_slice(part);
            }
        }
        scores
    }
}

/// Queries in the form in which they meet digests.
struct Queries<S: Simd> {
    /// What the first row is multiplied with, or both rows laid end to end.
    products: Vec<Floats<S>>,
    /// What the squares of the second row are multiplied with, where they are.
    squares: Vec<Floats<S>>,
    /// Norms, where they count.
    norms: Vec<f32>,
}

impl<S: Simd> Queries<S> {
    #[inline(always)]
    fn new<E: Element, D: NativeDigest>(query: &[f32], head_dim: usize) -> Self {
        let factors = |row: usize| query.iter().map(move |&q| D::factors(q)[row]);
        let lone = D::ROWS == 1 || D::SQUARED;
        let products = if lone {
            arrange::<S, E>(&factors(0).collect::<Vec<_>>(), head_dim)
        } else {
            let both = query.chunks_exact(head_dim).flat_map(|query| {
                [0, 1]
                    .into_iter()
                    .flat_map(|row| query.iter().map(move |&q| D::factors(q)[row]))
            });
            arrange::<S, E>(&both.collect::<Vec<_>>(), 2 * head_dim)
        };
        let squares = match D::SQUARED {
            true => arrange::<S, E>(&factors(1).collect::<Vec<_>>(), head_dim),
            false => Vec::new(),
        };
        let norms = query.chunks_exact(head_dim).map(norm).collect();
        Self {
            products,
            squares,
            norms,
        }
    }
}

/// Length of a vector.
pub(super) fn norm(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// `[lists, pages]`
#[macerator::with_simd]
fn score_pages<'a, S: Simd, E: Element, D: NativeDigest>(
    query: &[f32],
    digests: Pool<'a, E>,
    pages: &[u32],
    scored: Scored,
    _digest: PhantomData<D>,
) -> Vec<f32> {
    let scalars = if D::SCALAR { SCALAR_CHANNELS } else { 0 };
    let head_dim = digests.channels() - scalars;
    let heads = query.len() / head_dim;
    let group = heads / digests.heads();
    let queries = Queries::<S>::new::<E, D>(query, head_dim);
    let lists_per_head = scored.scoring.lists(group, 1);
    let mut scores = vec![scored.start(); digests.heads() * lists_per_head * pages.len()];
    let of_head = lists_per_head * pages.len();

    // As many pages at a time as rows fit into registers.
    let tile = if lanes::<S>() == 16 { 4 } else { 2 };
    let mut first = 0;
    while first < pages.len() {
        let n = if first + tile <= pages.len() { tile } else { 1 };
        for head in 0..digests.heads() {
            for &next in pages[first + n..].iter().take(tile) {
                prefetch(digests.page(next as usize, head));
            }
            let mut work = Scores::<S, D> {
                queries: &queries,
                first_query: head * group,
                n_queries: heads,
                head_dim,
                scores: &mut scores[head * of_head..][..of_head],
                n_pages: pages.len(),
                group,
                scored,
                digest: PhantomData,
            };
            let row = |i: usize| digests.page(pages[first + i] as usize, head);
            match n {
                4 => group_of_rows([row(0), row(1), row(2), row(3)], first, group, &mut work),
                2 => group_of_rows([row(0), row(1)], first, group, &mut work),
                _ => group_of_rows([row(0)], first, group, &mut work),
            }
        }
        first += n;
    }
    scores
}

/// Scores of the pages for one KV head.
struct Scores<'a, S: Simd, D> {
    queries: &'a Queries<S>,
    /// The first query head of the KV head, of how many.
    first_query: usize,
    n_queries: usize,
    head_dim: usize,
    scores: &'a mut [f32],
    n_pages: usize,
    /// Query heads of the KV head.
    group: usize,
    scored: Scored,
    digest: PhantomData<D>,
}

impl<S: Simd, D> Scores<'_, S, D> {
    /// `G` queries of all that there are, from `query` of this KV head on.
    #[inline(always)]
    fn take<'q>(&self, all: &'q [Floats<S>], query: usize, n: usize) -> &'q [Floats<S>] {
        let vectors = all.len() / self.n_queries;
        &all[(self.first_query + query) * vectors..][..n * vectors]
    }
}

impl<S: Simd, E: Element, D: NativeDigest> RowWork<S, E> for Scores<'_, S, D> {
    #[inline(always)]
    fn tile<const T: usize, const G: usize>(
        &mut self,
        rows: [&[E]; T],
        first: usize,
        query: usize,
    ) {
        let head_dim = self.head_dim;
        let linear = if D::ROWS == 1 || D::SQUARED {
            head_dim
        } else {
            2 * head_dim
        };
        let mut parts: [&[E]; T] = [&[]; T];
        for t in 0..T {
            parts[t] = &rows[t][..linear];
        }
        let queries = self.take(&self.queries.products, query, G);
        let products = dots::<S, E, T, G, false>(queries, parts);
        let mut squares = [[0.0; T]; G];
        if D::SQUARED {
            for t in 0..T {
                parts[t] = &rows[t][head_dim..2 * head_dim];
            }
            let queries = self.take(&self.queries.squares, query, G);
            squares = dots::<S, E, T, G, true>(queries, parts);
        }
        for g in 0..G {
            let norm = self.queries.norms[self.first_query + query + g];
            let is_shared = self.scored.scoring.is_shared();
            let list = if is_shared { 0 } else { query + g };
            let scores = &mut self.scores[list * self.n_pages + first..];
            for t in 0..T {
                let scalar = if D::SCALAR {
                    rows[t][head_dim].float()
                } else {
                    0.0
                };
                let deviations = self.scored.deviations;
                let found = D::score(products[g][t], squares[g][t], norm, scalar, deviations);
                self.scored.add(&mut scores[t], found, self.group);
            }
        }
    }
}
