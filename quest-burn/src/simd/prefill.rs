use std::{borrow::Cow, ops::Range};

use burn::tensor::Tensor;
use macerator::Simd;

use super::{
    columns::{Row, lay_out_key, lay_out_value},
    element::{Widen, arrange, restore, vectors_of},
    lanes::{Floats, flat, flat_mut, lanes, splat, width},
    parallel, pool,
    pool::{OnRows, Pool, on_rows},
    softmax::{MASKED, exponentials, highest},
};
use crate::{
    cache::{LayerCache, Step},
    pages::PastPages,
};

/// Rows of queries (tokens times query heads of a group) of one task: as many as share the work
/// of laying out a block of keys, and fit into the second-level cache with it.
const ROWS: usize = 256;

/// Keys of one block, a multiple of every page size.
const KEYS: usize = 128;

/// Rows whose sums are in registers together.
const TILE: usize = 4;

/// [`crate::ops::prefill_attention`].
pub(crate) fn prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    let seen = (0..step.batch()).map(|sequence| Seen {
        position: step.starts()[sequence],
        pages: vec![Cow::Borrowed(step.pages(sequence))],
    });
    attend(query, cache, step, scale, &seen.collect::<Vec<_>>())
}

/// [`crate::ops::sparse_prefill_attention`].
pub(crate) fn sparse_prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    past: &PastPages,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    let [_, heads, k] = past.ids.dims();
    let ids = past.ids.clone().into_data().convert::<i32>();
    let ids = ids.try_to_vec::<i32>().expect("converted to i32");
    let seen = (0..step.batch()).map(|sequence| {
        let (before, own) = step.pages(sequence).split_at(step.past_pages(sequence));
        let of_head = |head: usize| {
            let list = &ids[(sequence * heads + head) * k..][..past.counts[sequence]];
            let listed = list.iter().map(|&page| before[page as usize]);
            Cow::Owned(listed.chain(own.iter().copied()).collect())
        };
        Seen {
            position: past.start(sequence, step),
            pages: (0..heads).map(of_head).collect(),
        }
    });
    attend(query, cache, step, scale, &seen.collect::<Vec<_>>())
}

/// What the new tokens of a sequence see.
struct Seen<'a> {
    /// Position of the first of them among the tokens of the pages.
    position: usize,
    /// Pool pages: of each KV head, or the same for all.
    pages: Vec<Cow<'a, [u32]>>,
}

fn attend(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
    seen: &[Seen<'_>],
) -> Tensor<4> {
    let dtype = query.dtype();
    let shape = query.dims();
    let device = query.device();
    let scaled = pool::floats(query)
        .iter()
        .map(|q| q * scale as f32)
        .collect::<Vec<_>>();
    let work = AttendIn {
        query: &scaled,
        shape,
        step,
        seen,
    };
    let output = on_rows(&cache.pool.keys, &cache.pool.values, work);
    pool::tensor(output, shape, &device).cast(dtype)
}

/// [`attend_in`] on rows of any elements.
struct AttendIn<'a> {
    query: &'a [f32],
    shape: [usize; 4],
    step: &'a Step,
    seen: &'a [Seen<'a>],
}

impl OnRows for AttendIn<'_> {
    type Output = Vec<f32>;

    fn run<E: Widen>(self, keys: Pool<'_, E>, values: Pool<'_, E>) -> Vec<f32> {
        attend_in(self.query, self.shape, keys, values, self.step, self.seen)
    }
}

/// Adjacent query tokens of a sequence, for the query heads of one KV head.
#[derive(Clone)]
struct Task {
    sequence: usize,
    head: usize,
    tokens: Range<usize>,
}

fn attend_in<E: Widen>(
    query: &[f32],
    [_, n_heads, max_tokens, head_dim]: [usize; 4],
    keys: Pool<'_, E>,
    values: Pool<'_, E>,
    step: &Step,
    seen: &[Seen<'_>],
) -> Vec<f32> {
    let group = n_heads / keys.heads();
    let per_task = (ROWS / group).max(1);
    let mut tasks = Vec::new();
    let mut elements = 0;
    for (sequence, seen) in seen.iter().enumerate() {
        let gained = step.new_tokens(sequence);
        for head in 0..keys.heads() {
            for first in (0..gained).step_by(per_task) {
                tasks.push(Task {
                    sequence,
                    head,
                    tokens: first..gained.min(first + per_task),
                });
            }
        }
        elements += gained * n_heads * (seen.position + gained) * head_dim;
    }
    let row = |sequence: usize, head: usize, token: usize| {
        ((sequence * n_heads + head) * max_tokens + token) * head_dim
    };
    let results = parallel::map(tasks.clone(), elements, |task| {
        let Task {
            sequence,
            head,
            tokens,
        } = task;
        let mut block = Vec::with_capacity(group * tokens.len() * head_dim);
        for head in head * group..(head + 1) * group {
            let first = row(sequence, head, tokens.start);
            block.extend_from_slice(&query[first..][..tokens.len() * head_dim]);
        }
        let Seen { position, pages } = &seen[sequence];
        let position = position + tokens.start;
        let pages = &pages[head % pages.len()];
        attend_block::<E>(&block, tokens.len(), position, keys, values, head, pages)
    });

    let mut output = vec![0.0; query.len()];
    for (task, result) in tasks.iter().zip(results) {
        let n = task.tokens.len() * head_dim;
        for (i, result) in result.chunks_exact(n).enumerate() {
            let first = row(task.sequence, task.head * group + i, task.tokens.start);
            output[first..first + n].copy_from_slice(result);
        }
    }
    output
}

/// Causal attention of query rows `[group, tokens, head_dim]`, the first token at `position`.
///
/// Keys are transposed and values laid out in columns as wide as two vectors, block by block, so
/// that both products run through [`multiply`].
#[macerator::with_simd]
fn attend_block<'a, S: Simd, E: Widen>(
    query: &[f32],
    tokens: usize,
    position: usize,
    keys: Pool<'a, E>,
    values: Pool<'a, E>,
    head: usize,
    pages: &[u32],
) -> Vec<f32> {
    let head_dim = keys.channels();
    let depth = vectors_of::<S>(head_dim) * lanes::<S>();
    let n_rows = query.len() / head_dim;
    let padded_rows = n_rows.next_multiple_of(TILE);
    let mut queries = arrange::<S, E>(query, head_dim);
    queries.resize(padded_rows * vectors_of::<S>(head_dim), splat(0.0));
    let queries = flat(&queries);

    let zero = [splat::<S>(0.0); 2];
    let score_vectors = KEYS / lanes::<S>();
    let mut key_columns = vec![zero; KEYS / width::<S>() * depth];
    let mut value_columns = vec![zero; depth / width::<S>() * KEYS];
    let mut scores = vec![splat::<S>(0.0); padded_rows * score_vectors];
    let mut sums = vec![zero; padded_rows * (depth / width::<S>())];
    let mut softmax = vec![(MASKED, 0.0_f32); n_rows];

    let n_keys = position + tokens;
    for first_key in (0..n_keys).step_by(KEYS) {
        let n = KEYS.min(n_keys - first_key);
        for key in 0..KEYS {
            let at = (first_key + key) / keys.rows();
            let in_page = (first_key + key) % keys.rows();
            let row_of = |pool: Pool<'a, E>| {
                if key >= n {
                    return Row::nothing();
                }
                let page = pages[at] as usize;
                Row {
                    elements: &pool.page(page, head)[in_page * head_dim..][..head_dim],
                    scale: pool.scales(page, head).get(in_page).copied().unwrap_or(1.0),
                }
            };
            lay_out_key::<S, E>(row_of(keys), key, depth, &mut key_columns);
            lay_out_value::<S, E>(row_of(values), key, KEYS, &mut value_columns);
        }

        for (column, keys) in key_columns.chunks_exact(depth).enumerate() {
            for tile in 0..padded_rows / TILE {
                let products = multiply([zero; TILE], queries, depth, tile, keys);
                for (r, product) in products.iter().enumerate() {
                    let at = (tile * TILE + r) * score_vectors + 2 * column;
                    [scores[at], scores[at + 1]] = *product;
                }
            }
        }

        for (row, scores) in scores
            .chunks_exact_mut(score_vectors)
            .take(n_rows)
            .enumerate()
        {
            // Keys behind the token; what is not filled lies behind every token.
            let visible = (position + row % tokens + 1).saturating_sub(first_key);
            if visible < KEYS {
                flat_mut(scores)[visible..].fill(MASKED);
            }
            let (old_highest, sum) = softmax[row];
            let new_highest = old_highest.max(highest(scores));
            let weights = exponentials(scores, new_highest);
            let factor = (old_highest - new_highest).exp();
            softmax[row] = (new_highest, sum * factor + weights);
            if factor != 1.0 {
                let columns = depth / width::<S>();
                for sum in &mut sums[row * columns..][..columns] {
                    let factor = splat(factor);
                    *sum = [sum[0] * factor, sum[1] * factor];
                }
            }
        }

        let columns = depth / width::<S>();
        let weights = flat(&scores);
        for (column, values) in value_columns.chunks_exact(KEYS).enumerate() {
            for tile in 0..padded_rows / TILE {
                let mut of_tile = [zero; TILE];
                for r in 0..TILE {
                    of_tile[r] = sums[(tile * TILE + r) * columns + column];
                }
                let of_tile = multiply(of_tile, weights, KEYS, tile, values);
                for r in 0..TILE {
                    sums[(tile * TILE + r) * columns + column] = of_tile[r];
                }
            }
        }
    }

    let mut output = vec![0.0; query.len()];
    let columns = depth / width::<S>();
    for (row, output) in output.chunks_exact_mut(head_dim).enumerate() {
        let sums = &sums[row * columns..][..columns];
        restore::<S, E>(bytemuck::cast_slice(sums), output);
        let (_, sum) = softmax[row];
        for output in output {
            *output /= sum;
        }
    }
    output
}

/// Adds to `sums` the product of rows `tile * TILE..` of a matrix with `depth` columns and a
/// matrix that is two vectors wide.
#[inline(always)]
fn multiply<S: Simd>(
    mut sums: [[Floats<S>; 2]; TILE],
    rows: &[f32],
    depth: usize,
    tile: usize,
    column: &[[Floats<S>; 2]],
) -> [[Floats<S>; 2]; TILE] {
    let mut of_tile: [&[f32]; TILE] = [&[]; TILE];
    for r in 0..TILE {
        of_tile[r] = &rows[(tile * TILE + r) * depth..][..column.len()];
    }
    for (k, x) in column.iter().enumerate() {
        for r in 0..TILE {
            let factor = splat::<S>(of_tile[r][k]);
            sums[r] = [
                factor.mul_add(x[0], sums[r][0]),
                factor.mul_add(x[1], sums[r][1]),
            ];
        }
    }
    sums
}
