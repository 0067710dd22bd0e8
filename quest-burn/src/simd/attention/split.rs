use std::ops::Range;

use super::{
    super::{element::Element, parallel, pool::Pool, softmax::MASKED},
    part::{PartOfList, attend_to_part},
};
use crate::cache::Step;

/// Tokens of each list that one task attends to. What a list's parts are must not depend on
/// anything but its length: a list of every page is then computed as all pages are, to the last
/// bit, and results do not depend on the number of threads.
const TOKENS: usize = 256;

/// The logical pages of each list of a sequence, or all pages.
pub type Lists = Option<Vec<Vec<u32>>>;

/// Some lists of a sequence that a task attends to, and the range of their pages.
#[derive(Clone)]
struct Task {
    sequence: usize,
    lists: Range<usize>,
    pages: Range<usize>,
}

/// Attention of queries `[batch, n_heads, head_dim]`, scaled already, over the pages of each list.
pub fn attend_to_lists<E: Element>(
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
    let highest = parts
        .clone()
        .fold(MASKED, |highest, part| highest.max(part[0]));
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
