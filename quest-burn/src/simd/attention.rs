use burn::tensor::Tensor;
use macerator::Simd;

use super::{
    element::{Element, arrange, restore, vectors_of},
    lanes::{Floats, flat, flat_mut, lanes, splat},
    parallel, pool,
    pool::Pool,
    rows::{RowWork, add_weighted, dots, for_each_tile},
    scores::scores_of_all,
    select::best_of_all,
    softmax::{MASKED, exponentials, highest},
    with_element,
};
use crate::{
    PageSharing,
    cache::{LayerCache, Step},
    policy::{PageSelection, Pages},
};

/// Tokens of each list that one task attends to. It must not depend on anything else: a list of
/// every page is then computed as all pages are, to the last bit.
const TOKENS: usize = 256;

/// [`crate::ops::paged_attention`].
///
/// # Panics
///
/// When the choice of pages is of a kind that [`super::reads`] denies.
pub fn paged_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    pages: &Pages,
    step: &Step,
    scale: f64,
) -> Tensor<3> {
    let lists = match pages {
        Pages::All => (0..step.batch()).map(|_| None).collect(),
        Pages::Listed { ids, counts } => {
            let [_, lists, k] = ids.dims();
            let ids = ids.clone().into_data().convert::<i32>();
            let ids = ids.try_to_vec::<i32>().expect("converted to i32");
            let of_sequence = |(sequence, &count): (usize, &usize)| {
                // A list of every page is the dense case.
                let is_shorter = count < step.pages(sequence).len();
                is_shorter.then(|| {
                    let ids = &ids[sequence * lists * k..][..lists * k];
                    let list = |ids: &[i32]| ids[..count].iter().map(|&id| id as u32).collect();
                    ids.chunks_exact(k).map(list).collect()
                })
            };
            counts.iter().enumerate().map(of_sequence).collect()
        }
        #[allow(unreachable_patterns, reason = "policies may choose in other ways")]
        _ => unreachable!("the caller asks whether such a choice is read"),
    };
    let dtype = query.dtype();
    let shape = query.dims();
    let device = query.device();
    let output = attend(&pool::floats(query), shape, cache, lists, step, scale);
    pool::tensor(output, shape, &device).cast(dtype)
}

/// [`crate::ops::best_attention`].
pub fn best_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    selection: &PageSelection,
    sharing: PageSharing,
    scale: f64,
) -> Tensor<3> {
    let dtype = query.dtype();
    let shape = query.dims();
    let device = query.device();
    let [_, n_heads, _] = shape;
    let [_, n_kv_heads, _, _] = cache.keys.dims();
    let query = pool::floats(query);
    let lists = match sharing {
        PageSharing::QueryHead => n_heads,
        PageSharing::KvHead => n_kv_heads,
    };
    let scores = scores_of_all(&query, n_heads, cache, step, sharing);
    let chosen = best_of_all(&scores, lists, step, selection);
    let chosen = chosen.into_iter().enumerate().map(|(sequence, chosen)| {
        let is_shorter = selection.k < step.pages(sequence).len();
        is_shorter.then_some(chosen)
    });
    let output = attend(&query, shape, cache, chosen.collect(), step, scale);
    pool::tensor(output, shape, &device).cast(dtype)
}

/// The logical pages of each list of a sequence, or all pages.
type Lists = Option<Vec<Vec<u32>>>;

fn attend(
    query: &[f32],
    shape: [usize; 3],
    cache: &LayerCache,
    lists: Vec<Lists>,
    step: &Step,
    scale: f64,
) -> Vec<f32> {
    let scaled = query.iter().map(|q| q * scale as f32).collect::<Vec<_>>();
    let (keys, values) = (cache.keys.clone(), cache.values.clone());
    let (keys, values) = (pool::primitive(keys), pool::primitive(values));
    with_element!(cache.keys.dtype(), E => {
        let (keys, values) = (Pool::<E>::new(&keys), Pool::new(&values));
        attend_in(&scaled, shape, keys, values, lists, step)
    })
}

/// Some lists of a sequence that a task attends to, and the range of their pages.
#[derive(Clone)]
struct Task {
    sequence: usize,
    lists: std::ops::Range<usize>,
    pages: std::ops::Range<usize>,
}

fn attend_in<E: Element>(
    query: &[f32],
    [batch, n_heads, head_dim]: [usize; 3],
    keys: Pool<'_, E>,
    values: Pool<'_, E>,
    lists: Vec<Lists>,
    step: &Step,
) -> Vec<f32> {
    // Where each list's pages lie in the pool; all pages are one list, which every head reads.
    let in_pool = lists.iter().enumerate().map(|(sequence, lists)| {
        let pages = step.pages(sequence);
        match lists {
            Some(lists) => lists
                .iter()
                .map(|list| list.iter().map(|&id| pages[id as usize]).collect())
                .collect(),
            None => vec![pages.to_vec()],
        }
    });
    let in_pool = in_pool.collect::<Vec<Vec<Vec<u32>>>>();
    let n_lists = |sequence: usize| match &lists[sequence] {
        Some(lists) => lists.len(),
        None => keys.heads(),
    };
    let per_part = (TOKENS / keys.rows()).max(1);
    let active = (0..batch).filter(|&sequence| step.new_tokens(sequence) > 0);
    let active = active.collect::<Vec<_>>();
    let n_parts = |sequence: usize| in_pool[sequence][0].len().div_ceil(per_part);
    let all_parts = active.iter().map(|&sequence| n_parts(sequence)).sum();

    let mut tasks = Vec::new();
    for &sequence in &active {
        let n = n_lists(sequence);
        // What a list's parts are does not depend on how lists are dealt out to tasks.
        let per_task = parallel::per_task(n, all_parts);
        let n_pages = in_pool[sequence][0].len();
        for first_list in (0..n).step_by(per_task) {
            for first in (0..n_pages).step_by(per_part) {
                tasks.push(Task {
                    sequence,
                    lists: first_list..n.min(first_list + per_task),
                    pages: first..n_pages.min(first + per_part),
                });
            }
        }
    }
    let elements = tasks.iter().map(|task| task.lists.len() * task.pages.len());
    let elements = elements.sum::<usize>() * 2 * keys.rows() * head_dim;
    let parts = parallel::map(tasks.clone(), elements, |task| {
        let Task {
            sequence,
            lists: of_task,
            pages,
        } = task;
        let group = n_heads / n_lists(sequence);
        let length = step.lengths()[sequence];
        let newest = step.pages(sequence).len() - 1;
        let lists = of_task.clone().map(|list| {
            let in_pool = &in_pool[sequence];
            let last = match &lists[sequence] {
                Some(lists) => lists[list][pages.end - 1] as usize,
                None => pages.end - 1,
            };
            PartOfList {
                head: list * group * keys.heads() / n_heads,
                pages: &in_pool[list.min(in_pool.len() - 1)][pages.clone()],
                // Only the newest page has rows without a token, and lists ascend.
                rows_of_last: if last == newest {
                    length - newest * keys.rows()
                } else {
                    keys.rows()
                },
            }
        });
        let lists = lists.collect::<Vec<_>>();
        let first = (sequence * n_heads + of_task.start * group) * head_dim;
        let query = &query[first..][..of_task.len() * group * head_dim];
        attend_to_part::<E>(query, keys, values, &lists)
    });

    let mut output = vec![0.0; batch * n_heads * head_dim];
    let of_part = head_dim + 2;
    let mut next = 0;
    while next < tasks.len() {
        // The parts of the same lists follow one another.
        let Task {
            sequence, lists, ..
        } = tasks[next].clone();
        let n = n_parts(sequence);
        let of_lists = &parts[next..next + n];
        let group = n_heads / n_lists(sequence);
        let first = sequence * n_heads + lists.start * group;
        let output = &mut output[first * head_dim..][..lists.len() * group * head_dim];
        for (i, output) in output.chunks_exact_mut(head_dim).enumerate() {
            let parts = of_lists.iter().map(|part| &part[i * of_part..][..of_part]);
            merge(parts, output);
        }
        next += n;
    }
    output
}

/// Puts the parts of one query together: each is its highest score, the sum of its weights, and
/// its weighted sum of values.
fn merge<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, output: &mut [f32]) {
    let highest = parts.clone().fold(MASKED, |highest, part| highest.max(part[0]));
    let mut sum = 0.0;
    for part in parts {
        let factor = (part[0] - highest).exp();
        sum += factor * part[1];
        for (output, &x) in output.iter_mut().zip(&part[2..]) {
            *output += factor * x;
        }
    }
    for output in output {
        *output /= sum;
    }
}

/// The pages of a list that one task reads.
struct PartOfList<'a> {
    /// The KV head.
    head: usize,
    /// Pool pages.
    pages: &'a [u32],
    /// Rows of the last of them that hold a token.
    rows_of_last: usize,
}

impl<'a> PartOfList<'a> {
    /// The rows of a page that hold a token.
    #[inline(always)]
    fn rows<E: Element>(&self, pool: Pool<'a, E>, i: usize) -> &'a [E] {
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
fn attend_to_part<'a, S: Simd, E: Element>(
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
        let per_query = self.scores.len() / self.group;
        let queries = &self.queries[query * vectors..(query + G) * vectors];
        let dots = dots::<S, E, T, G>(queries, rows);
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
}

impl<S: Simd, E: Element> RowWork<S, E> for Values<'_, S> {
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
        }
        let sums = &mut self.sums[query * vectors..(query + G) * vectors];
        add_weighted::<S, E, T, G>(weights, rows, sums);
    }
}
