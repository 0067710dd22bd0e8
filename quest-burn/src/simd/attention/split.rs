use std::ops::Range;

use super::{
    super::{element::Widen, parallel, pool::Pool, softmax::MASKED},
    part::{PartOfList, attend_to_part},
};
use crate::cache::Step;

/// Tokens of each list that one task attends to. What a list's parts are must not depend on
/// anything but its length: a list of every page is then computed as all pages are, to the last
/// bit, and results do not depend on the number of threads.
const TOKENS: usize = 256;

/// The logical pages of each list of a sequence, or all pages.
pub(super) type Lists = Option<Vec<Vec<u32>>>;

/// What a sequence reads.
struct Reading {
    /// All pages are one list, which every head reads.
    lists: Vec<PoolPages>,
    /// How many lists there are, counting that one for each head.
    n_lists: usize,
    /// Rows of the newest page that hold a token.
    rows_of_newest: usize,
}

/// A list of pages, as places in the pool.
struct PoolPages {
    pages: Vec<u32>,
    ends_with_newest: bool,
}

impl Reading {
    fn new<E: Widen>(lists: Lists, keys: Pool<'_, E>, step: &Step, sequence: usize) -> Self {
        let pages = step.pages(sequence);
        let newest = pages.len().saturating_sub(1);
        let n_lists = lists.as_ref().map_or(keys.heads(), Vec::len);
        let all = || PoolPages {
            pages: pages.to_vec(),
            ends_with_newest: true,
        };
        let some = |ids: Vec<u32>| PoolPages {
            ends_with_newest: ids.last() == Some(&(newest as u32)),
            pages: ids.into_iter().map(|id| pages[id as usize]).collect(),
        };
        Self {
            lists: match lists {
                Some(lists) => lists.into_iter().map(some).collect(),
                None => vec![all()],
            },
            n_lists,
            rows_of_newest: step.lengths()[sequence] - newest * keys.rows(),
        }
    }

    /// Pages of each list.
    fn n_pages(&self) -> usize {
        self.lists[0].pages.len()
    }

    fn part<E: Widen>(
        &self,
        list: usize,
        pages: Range<usize>,
        keys: Pool<'_, E>,
    ) -> PartOfList<'_> {
        let head = list * keys.heads() / self.n_lists;
        let list = &self.lists[list.min(self.lists.len() - 1)];
        // Only the newest page has rows without a token, and lists ascend.
        let is_partial = list.ends_with_newest && pages.end == list.pages.len();
        PartOfList {
            head,
            pages: &list.pages[pages],
            rows_of_last: if is_partial {
                self.rows_of_newest
            } else {
                keys.rows()
            },
        }
    }
}

/// Some lists of a sequence, and the pages of each that a task attends to.
#[derive(Clone)]
struct Task {
    sequence: usize,
    lists: Range<usize>,
    pages: Range<usize>,
}

/// Attention of queries `[batch, n_heads, head_dim]`, scaled already, over the pages of each list.
pub(super) fn attend_to_lists<E: Widen>(
    query: &[f32],
    [batch, n_heads, head_dim]: [usize; 3],
    keys: Pool<'_, E>,
    values: Pool<'_, E>,
    lists: Vec<Lists>,
    step: &Step,
) -> Vec<f32> {
    let lists = lists.into_iter().enumerate();
    let readings = lists
        .map(|(sequence, lists)| Reading::new(lists, keys, step, sequence))
        .collect::<Vec<_>>();
    let active = (0..batch).filter(|&sequence| step.new_tokens(sequence) > 0);
    let tasks = tasks(&readings, active, keys.rows());
    let page = 2 * keys.rows() * head_dim;
    let pages = tasks.iter().map(|task| task.lists.len() * task.pages.len());
    let parts = parallel::map(tasks.clone(), pages.sum::<usize>() * page, |task| {
        let reading = &readings[task.sequence];
        let group = n_heads / reading.n_lists;
        let lists = task.lists.clone();
        let parts = lists.map(|list| reading.part(list, task.pages.clone(), keys));
        let first = (task.sequence * n_heads + task.lists.start * group) * head_dim;
        let query = &query[first..][..task.lists.len() * group * head_dim];
        attend_to_part::<E>(query, keys, values, &parts.collect::<Vec<_>>())
    });

    // The parts of the same lists follow one another.
    let mut output = vec![0.0; query.len()];
    let of_part = head_dim + 2;
    let (mut tasks, mut parts) = (&tasks[..], &parts[..]);
    while let Some(Task {
        sequence, lists, ..
    }) = tasks.first()
    {
        let is_same = |task: &&Task| task.sequence == *sequence && task.lists == *lists;
        let n = tasks.iter().take_while(is_same).count();
        let group = n_heads / readings[*sequence].n_lists;
        let first = (sequence * n_heads + lists.start * group) * head_dim;
        let output = &mut output[first..][..lists.len() * group * head_dim];
        for (i, output) in output.chunks_exact_mut(head_dim).enumerate() {
            let of_query = parts[..n]
                .iter()
                .map(|part| &part[i * of_part..][..of_part]);
            merge(of_query, output);
        }
        (tasks, parts) = (&tasks[n..], &parts[n..]);
    }
    output
}

/// The parts of all lists, those of the same lists in order.
fn tasks(
    readings: &[Reading],
    active: impl Iterator<Item = usize> + Clone,
    page_size: usize,
) -> Vec<Task> {
    let per_part = (TOKENS / page_size).max(1);
    let parts = |sequence: usize| readings[sequence].n_pages().div_ceil(per_part);
    let all_parts = active.clone().map(parts).sum();
    let mut tasks = Vec::new();
    for sequence in active {
        let (n_lists, n_pages) = (readings[sequence].n_lists, readings[sequence].n_pages());
        let per_task = parallel::per_task(n_lists, all_parts);
        for list in (0..n_lists).step_by(per_task) {
            for page in (0..n_pages).step_by(per_part) {
                tasks.push(Task {
                    sequence,
                    lists: list..n_lists.min(list + per_task),
                    pages: page..n_pages.min(page + per_part),
                });
            }
        }
    }
    tasks
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
