use std::ops::Range;

use burn::tensor::Tensor;
use macerator::Simd;

use super::{
    element::{Element, arrange, vectors_of},
    int8,
    int8::Packed,
    lanes::{Floats, lanes, prefetch},
    parallel, pool,
    pool::Pool,
    rows::{RowWork, dots, group_of_rows},
    with_element,
};
use crate::{
    PageSharing,
    cache::{Int8Digests, LayerCache, Step},
};

/// Pages that one task scores.
const PAGES: usize = 128;

/// [`crate::ops::page_scores`].
pub fn page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    sharing: PageSharing,
) -> Tensor<3> {
    let [batch, n_heads, _] = query.dims();
    let [_, n_kv_heads, _, _] = cache.digests.dims();
    let device = query.device();
    let scores = scores_of_all(&pool::floats(query), n_heads, cache, step, sharing);
    let lists = match sharing {
        PageSharing::QueryHead => n_heads,
        PageSharing::KvHead => n_kv_heads,
    };
    pool::tensor(scores, [batch, lists, step.max_pages()], &device)
}

/// `[batch, lists, max_pages]` from queries `[batch, n_heads, head_dim]`.
pub fn scores_of_all(
    query: &[f32],
    n_heads: usize,
    cache: &LayerCache,
    step: &Step,
    sharing: PageSharing,
) -> Vec<f32> {
    let problem = Problem {
        query,
        n_heads,
        n_kv_heads: cache.digests.dims()[1],
        head_dim: cache.digests.dims()[3],
        step,
        sharing,
    };
    if let Some(Int8Digests { words, scales }) = cache.int8_digests.clone() {
        let (words, scales) = (pool::primitive(words), pool::primitive(scales));
        let packed = Packed::new(&words, &scales);
        return problem.scores(|query, pages| int8::score_pages(query, packed, pages, sharing));
    }
    let digests = pool::primitive(cache.digests.clone());
    with_element!(cache.digests.dtype(), E => {
        let digests = Pool::<E>::new(&digests);
        problem.scores(|query, pages| score_pages::<E>(query, digests, pages, sharing))
    })
}

/// What is scored, whatever form the digests have.
struct Problem<'a> {
    query: &'a [f32],
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    step: &'a Step,
    sharing: PageSharing,
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
            sharing,
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

        let lists = match sharing {
            PageSharing::QueryHead => n_heads,
            PageSharing::KvHead => n_kv_heads,
        };
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

/// `[lists, pages]`
///
/// The bound `sum_i max(q_i * min_i, q_i * max_i)` equals `min(q, 0) . min + max(q, 0) . max`: a
/// dot product with a digest, whose two rows lie end to end.
#[macerator::with_simd]
fn score_pages<'a, S: Simd, E: Element>(
    query: &[f32],
    digests: Pool<'a, E>,
    pages: &[u32],
    sharing: PageSharing,
) -> Vec<f32> {
    let head_dim = digests.channels();
    let group = query.len() / head_dim / digests.heads();
    let mut signed = Vec::with_capacity(2 * query.len());
    for query in query.chunks_exact(head_dim) {
        signed.extend(query.iter().map(|&q| if q > 0.0 { 0.0 } else { q }));
        signed.extend(query.iter().map(|&q| if q < 0.0 { 0.0 } else { q }));
    }
    let queries = arrange::<S, E>(&signed, 2 * head_dim);
    let of_group = group * vectors_of::<S>(2 * head_dim);
    let is_shared = sharing == PageSharing::KvHead;
    let lists_per_head = if is_shared { 1 } else { group };
    let mut scores = vec![f32::MIN; digests.heads() * lists_per_head * pages.len()];
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
            let mut work = Scores {
                queries: &queries[head * of_group..][..of_group],
                group,
                scores: &mut scores[head * of_head..][..of_head],
                n_pages: pages.len(),
                is_shared,
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
struct Scores<'a, S: Simd> {
    queries: &'a [Floats<S>],
    group: usize,
    scores: &'a mut [f32],
    n_pages: usize,
    is_shared: bool,
}

impl<S: Simd, E: Element> RowWork<S, E> for Scores<'_, S> {
    #[inline(always)]
    fn tile<const T: usize, const G: usize>(
        &mut self,
        rows: [&[E]; T],
        first: usize,
        query: usize,
    ) {
        let vectors = self.queries.len() / self.group;
        let queries = &self.queries[query * vectors..(query + G) * vectors];
        let dots = dots::<S, E, T, G>(queries, rows);
        for (g, dots) in dots.iter().enumerate() {
            let list = if self.is_shared { 0 } else { query + g };
            for (score, &dot) in self.scores[list * self.n_pages + first..]
                .iter_mut()
                .zip(dots)
            {
                *score = if self.is_shared { score.max(dot) } else { dot };
            }
        }
    }
}
