use burn::tensor::{Int, Tensor};

use crate::cache::Step;

/// Pages of the past that the new tokens of a prompt attend to, beside themselves: a list per KV head.
///
/// The past are the [whole pages](Step::past_pages) before the page that a sequence's new tokens begin in.
/// That page and those behind it are read in any case.
#[derive(Clone, Debug)]
pub struct PastPages {
    /// Logical page numbers, ascending without repeats, `[batch, n_kv_heads, k]`; -1 past a sequence's
    /// count.
    pub ids: Tensor<3, Int>,
    /// Pages that each head of a sequence lists.
    pub counts: Vec<usize>,
}

impl PastPages {
    /// Whether the lists of a sequence leave nothing out.
    pub fn cover(&self, sequence: usize, step: &Step) -> bool {
        self.counts[sequence] == step.past_pages(sequence)
    }

    /// Position of a sequence's first new token among the tokens that its lists leave.
    pub(crate) fn start(&self, sequence: usize, step: &Step) -> usize {
        let left_out = step.past_pages(sequence) - self.counts[sequence];
        step.starts()[sequence] - left_out * step.page_size()
    }
}
