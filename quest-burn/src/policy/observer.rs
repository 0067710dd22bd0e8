use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Int, Tensor};

use super::{PagePolicy, Pages};
use crate::{
    cache::{LayerCache, Step},
    ops,
};

/// Tokens of the highest true attention that [`Observation::top_recall`] looks for, as in
/// [Quest](https://arxiv.org/abs/2406.10774), figure 4.
pub const TOP_TOKENS: usize = 10;

/// A policy that is watched: it reads what the policy inside reads, and records it beside the true
/// attention, which it computes in addition.
///
/// Every decode step then waits for the device; this is for experiments, not for speed.
#[derive(Debug)]
pub struct ObservedPolicy {
    policy: Box<dyn PagePolicy>,
    observations: Observations,
}

impl ObservedPolicy {
    /// Watches a policy.
    pub fn new(policy: Box<dyn PagePolicy>) -> Self {
        Self {
            policy,
            observations: Observations::default(),
        }
    }

    /// What has been recorded: a handle that sees what will be recorded too.
    pub fn observations(&self) -> Observations {
        self.observations.clone()
    }
}

/// A shared handle on what an [`ObservedPolicy`] records.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    recorded: Arc<Mutex<Vec<Observation>>>,
}

impl Observations {
    /// Takes out what has been recorded, in the order of the steps, and of the layers in a step.
    pub fn take(&self) -> Vec<Observation> {
        let recorded = self.recorded.lock();
        std::mem::take(&mut *recorded.unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, observation: Observation) {
        let recorded = self.recorded.lock();
        let mut recorded = recorded.unwrap_or_else(PoisonError::into_inner);
        recorded.push(observation);
    }
}

/// What one layer read in one decode step of one sequence, beside the attention that its query
/// would pay if it read every token of the cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The layer.
    pub layer: usize,
    /// The sequence of the batch.
    pub sequence: usize,
    /// Tokens in the cache, the newest included.
    pub length: usize,
    /// Tokens per page.
    pub page_size: usize,
    /// What was read.
    pub read: Read,
    /// For each query head, the share of the [`TOP_TOKENS`] tokens with the highest true attention
    /// that was read.
    pub top_recall: Vec<f64>,
    /// For each query head, the share of the true attention that falls on what was read.
    pub mass: Vec<f64>,
}

/// What was read in one step: pages or tokens, ascending, of each list. There are as many lists as
/// query heads or as KV heads, and consecutive query heads share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Everything.
    All,
    /// Whole pages.
    Pages(Vec<Vec<usize>>),
    /// Single tokens.
    Tokens(Vec<Vec<usize>>),
}

impl Read {
    /// The sequence's part of a choice.
    fn of(pages: &Pages, sequence: usize, length: usize) -> Self {
        match pages {
            Pages::All => Self::All,
            Pages::Listed { ids, counts } => {
                let ids = ids.clone().slice([sequence..sequence + 1]);
                let ids = ids.slice_dim(2, 0..counts[sequence]);
                Self::Pages(lists(ids.squeeze_dim(0)))
            }
            Pages::Tokens(tokens) if tokens.covers(sequence, length) => Self::All,
            Pages::Tokens(tokens) => Self::Tokens(lists(tokens.positions[sequence].clone())),
        }
    }

    /// For each token of the sequence, whether a query head of `n_heads` reads it.
    fn of_head(&self, head: usize, n_heads: usize, length: usize, page_size: usize) -> Vec<bool> {
        let (lists, width) = match self {
            Self::All => return vec![true; length],
            Self::Pages(lists) => (lists, page_size),
            Self::Tokens(lists) => (lists, 1),
        };
        let mut is_read = vec![false; length];
        for item in &lists[head * lists.len() / n_heads] {
            let first = item * width;
            is_read[first..length.min(first + width)].fill(true);
        }
        is_read
    }
}

fn lists(ids: Tensor<2, Int>) -> Vec<Vec<usize>> {
    let [_, n] = ids.dims();
    let ids = ids.into_data().convert::<i64>().try_to_vec::<i64>();
    let ids = ids.expect("converted to i64");
    ids.chunks(n)
        .map(|list| list.iter().map(|&id| id as usize).collect())
        .collect()
}

impl Observation {
    /// How many pages each list touches.
    pub fn pages_read(&self) -> Vec<usize> {
        match &self.read {
            Read::All => vec![self.length.div_ceil(self.page_size)],
            Read::Pages(lists) => lists.iter().map(Vec::len).collect(),
            Read::Tokens(lists) => lists
                .iter()
                .map(|tokens| {
                    let page = |token: &usize| token / self.page_size;
                    tokens.chunk_by(|a, b| page(a) == page(b)).count()
                })
                .collect(),
        }
    }

    /// How many tokens each list reads.
    pub fn tokens_read(&self) -> Vec<usize> {
        match &self.read {
            Read::All => vec![self.length],
            Read::Pages(lists) => {
                let filled = |&page: &usize| {
                    let first = page * self.page_size;
                    self.length.min(first + self.page_size) - first
                };
                let tokens = |pages: &Vec<usize>| pages.iter().map(filled).sum();
                lists.iter().map(tokens).collect()
            }
            Read::Tokens(lists) => lists.iter().map(Vec::len).collect(),
        }
    }
}

impl PagePolicy for ObservedPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        self.policy.select(query, cache, step, scale)
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        // Before the attention, which moves the states of the policies that keep some.
        let pages = self.policy.select(&query, cache, step, scale);
        for sequence in (0..step.batch()).filter(|&s| step.new_tokens(s) > 0) {
            let read = Read::of(&pages, sequence, step.lengths()[sequence]);
            let observation = observe(read, &query, cache, step, sequence, scale);
            self.observations.push(observation);
        }
        self.policy.attention(query, cache, step, scale)
    }

    fn prefill_attention(
        &self,
        query: Tensor<4>,
        cache: &LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<4> {
        self.policy.prefill_attention(query, cache, step, scale)
    }

    fn hears_entropy(&self) -> bool {
        self.policy.hears_entropy()
    }
}

fn observe(
    read: Read,
    query: &Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    sequence: usize,
    scale: f64,
) -> Observation {
    let [_, n_heads, _] = query.dims();
    let (length, page_size) = (step.lengths()[sequence], step.page_size());
    let (mut top_recall, mut mass) = (vec![1.0; n_heads], vec![1.0; n_heads]);
    if read != Read::All {
        let scores = ops::token_scores(query.clone(), cache, step, sequence);
        let scores = scores.into_data().convert::<f32>().try_to_vec::<f32>();
        let scores = scores.expect("converted to f32");
        for (head, scores) in scores.chunks(length).enumerate() {
            let is_read = read.of_head(head, n_heads, length, page_size);
            let top = highest(scores, TOP_TOKENS);
            let found = top.iter().filter(|&&token| is_read[token]).count();
            top_recall[head] = found as f64 / top.len() as f64;

            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let (mut total, mut covered) = (0.0, 0.0);
            for (product, is_read) in scores.iter().zip(is_read) {
                let score = |product: f32| cache.capped(scale * f64::from(product));
                let weight = (score(*product) - score(most)).exp();
                total += weight;
                covered += if is_read { weight } else { 0.0 };
            }
            mass[head] = covered / total;
        }
    }
    Observation {
        layer: cache.index(),
        sequence,
        length,
        page_size,
        read,
        top_recall,
        mass,
    }
}

/// The tokens with the highest scores, of equal ones the first.
fn highest(scores: &[f32], n: usize) -> Vec<usize> {
    let mut tokens = (0..scores.len()).collect::<Vec<_>>();
    if n < tokens.len() {
        let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        tokens.select_nth_unstable_by(n, order);
        tokens.truncate(n);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        DensePolicy, QuestConfig, TovaConfig,
        fixture::{Weighted, assert_close, observed},
    };

    /// Most of the attention of 20 tokens is on page 1.
    fn weight(token: usize) -> f32 {
        match token {
            8..16 => 3.0 + token as f32 / 100.0,
            _ => 1.0 + token as f32 / 100.0,
        }
    }

    fn observe(policy: impl PagePolicy + 'static) -> Observation {
        let weights = (0..20).map(|token| [weight(token)]).collect::<Vec<_>>();
        let prompt = weights[..19].iter().map(|w| &w[..]).collect::<Vec<_>>();
        let mut layer = Weighted::new(1).prompt(&prompt);
        layer.observe(&observed(policy), &weights[19], &[1.0]).0
    }

    #[test]
    fn of_equal_scores_the_first_tokens_are_the_highest() {
        let mut found = highest(&[0.0, 2.0, 1.0, 2.0, 1.0, 1.0], 4);
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3, 4]);
        assert_eq!(highest(&[0.0, 1.0], 4).len(), 2);
    }

    #[test]
    fn what_is_read_is_recorded_beside_the_true_attention() {
        let total = (0..20).map(weight).sum::<f32>();
        let share = |tokens: core::ops::Range<usize>| tokens.map(weight).sum::<f32>() / total;
        let mass = |observation: &Observation| observation.mass[0] as f32;

        let dense = observe(DensePolicy);
        assert_eq!(dense.read, Read::All);
        assert_eq!(
            (dense.pages_read(), dense.tokens_read()),
            (vec![3], vec![20])
        );
        assert_eq!((dense.top_recall, dense.mass), (vec![1.0], vec![1.0]));

        let config = QuestConfig::kv_group().with_dense_layers(0);
        let quest = observe(config.with_token_budget(16).init().unwrap());
        assert_eq!(quest.read, Read::Pages(vec![vec![1, 2]]));
        assert_eq!(
            (quest.pages_read(), quest.tokens_read()),
            (vec![2], vec![12])
        );
        // The ten highest are the eight of page 1, and 19 and 18.
        assert_eq!(quest.top_recall, [1.0]);
        assert_close(&[mass(&quest)], &[share(8..20)]);

        let config = TovaConfig::new().with_dense_layers(0).with_token_budget(9);
        let tova = observe(config.init().unwrap());
        let tokens = (8..16).chain([19]).collect::<Vec<_>>();
        assert_eq!(tova.read, Read::Tokens(vec![tokens]));
        assert_eq!((tova.pages_read(), tova.tokens_read()), (vec![2], vec![9]));
        assert_eq!(tova.top_recall, [0.9]);
        assert_close(&[mass(&tova)], &[share(8..16) + share(19..20)]);
        assert_eq!((tova.layer, tova.sequence, tova.length), (0, 0, 20));
    }
}
