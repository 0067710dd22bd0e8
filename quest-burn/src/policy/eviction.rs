//! Policies that evict tokens by the attention they receive: H2O and TOVA differ in what counts.

use burn::tensor::{Int, Tensor};

use super::{PagePolicy, Pages, TokenLists};
use crate::{
    cache::{LayerCache, Step},
    ops,
    pages::{for_each, one_list},
};

/// Which heads keep the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeptBy {
    QueryHead,
    KvHead,
    Layer,
}

/// Which tokens are evicted, and when.
///
/// A query reads at most `budget` tokens, its own included: after each step, tokens are evicted
/// until one more fits. The attention of prompt tokens is not seen; if the tokens that were
/// prefilled do not fit, the first decoded query ranks all of them by its attention, and only those
/// that stay are read, by this query already. (In the authors' code, that query attends to the whole
/// prompt and evicts afterwards; here no decoded query exceeds its budget.) To rank, all keys are
/// read once, but no values. The ranking does not count as received attention: that is, for each
/// decoded query and head, a softmax over the tokens that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Eviction {
    /// Tokens that a query reads, the newest included; at least 2.
    pub budget: usize,
    /// Most recent tokens that are not evicted, the newest included; part of the budget.
    pub recent: usize,
    /// Whether the attention of all decoded queries counts, or that of the last one only.
    pub accumulates: bool,
    /// Which heads keep the same tokens: their attention counts together.
    pub kept_by: KeptBy,
    /// Leading layers that evict nothing.
    pub dense_layers: usize,
}

/// What eviction has left of a sequence in a layer.
#[derive(Clone, Debug)]
struct KeptTokens {
    /// Who evicted.
    eviction: Eviction,
    /// Tokens of the sequence that have been seen.
    seen: usize,
    tokens: ScoredTokens,
}

/// Tokens and the attention that they have received from decoded queries, if that accumulates;
/// `[lists, n]` both.
#[derive(Clone, Debug)]
struct ScoredTokens {
    positions: Tensor<2, Int>,
    received: Tensor<2>,
}

impl ScoredTokens {
    /// Tokens that no query has seen.
    fn unseen(tokens: core::ops::Range<usize>, lists: usize, like: &Tensor<3>) -> Self {
        let n = tokens.len();
        let device = like.device();
        let positions = one_list(tokens.map(|token| token as i32), lists, &device);
        Self {
            positions,
            received: Tensor::zeros([lists, n], &device),
        }
    }

    fn len(&self) -> usize {
        self.positions.dims()[1]
    }

    /// Followed by later tokens.
    fn and(self, later: Self) -> Self {
        Self {
            positions: Tensor::cat(vec![self.positions, later.positions], 1),
            received: Tensor::cat(vec![self.received, later.received], 1),
        }
    }

    fn keep(self, columns: Tensor<2, Int>) -> Self {
        Self {
            positions: self.positions.gather(1, columns.clone()),
            received: self.received.gather(1, columns),
        }
    }
}

impl Eviction {
    fn lists(&self, query: &Tensor<3>, cache: &LayerCache) -> usize {
        match self.kept_by {
            KeptBy::QueryHead => query.dims()[1],
            KeptBy::KvHead => cache.dims()[1],
            KeptBy::Layer => 1,
        }
    }

    /// The tokens that the newest token of each sequence attends to.
    fn held(
        &self,
        query: &Tensor<3>,
        cache: &LayerCache,
        step: &Step,
        scale: f64,
    ) -> Vec<ScoredTokens> {
        let lists = self.lists(query, cache);
        let of_sequence = |sequence: usize| {
            let length = step.lengths()[sequence];
            let held = match cache.states().get::<KeptTokens>(sequence) {
                Some(kept) if kept.eviction == *self && kept.seen <= length => {
                    match kept.seen..length {
                        new if new.is_empty() => kept.tokens.clone(),
                        new => (kept.tokens.clone()).and(ScoredTokens::unseen(new, lists, query)),
                    }
                }
                _ => ScoredTokens::unseen(0..length, lists, query),
            };
            if held.len() <= self.budget || step.new_tokens(sequence) == 0 {
                return held;
            }
            let positions = for_attention(&held.positions, cache);
            let weights =
                ops::token_weights(query.clone(), cache, positions, step, sequence, scale);
            let worth = self.worth(&held, weights);
            let columns = best(worth, self.budget, self.recent);
            held.keep(columns)
        };
        (0..step.batch()).map(of_sequence).collect()
    }

    /// Takes note of the attention that a query has paid to the tokens, and evicts until there is
    /// room for the next one.
    fn after(&self, held: ScoredTokens, weights: Tensor<2>) -> ScoredTokens {
        let worth = self.worth(&held, weights);
        let tokens = match self.accumulates {
            true => ScoredTokens {
                received: worth.clone(),
                ..held
            },
            false => held,
        };
        if tokens.len() < self.budget {
            return tokens;
        }
        let recent = self.recent.saturating_sub(1);
        tokens.keep(best(worth, self.budget - 1, recent))
    }

    /// What decides which tokens stay, when a query pays them this attention.
    fn worth(&self, held: &ScoredTokens, weights: Tensor<2>) -> Tensor<2> {
        let [lists, _] = held.positions.dims();
        let paid = per_list(weights, lists);
        match self.accumulates {
            true => held.received.clone() + paid,
            false => paid,
        }
    }
}

impl PagePolicy for Eviction {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        if cache.index() < self.dense_layers {
            return Pages::All;
        }
        let held = self.held(query, cache, step, scale);
        Pages::Tokens(lists_of(&held, cache))
    }

    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        if cache.index() < self.dense_layers {
            return ops::paged_attention(query, cache, &Pages::All, step, scale);
        }
        let held = self.held(&query, cache, step, scale);
        let lists = lists_of(&held, cache);
        let attention = ops::token_attention(query.clone(), cache, &lists, step, scale);
        let weights = attention.weights.into_iter();
        for (sequence, (held, weights)) in held.into_iter().zip(weights).enumerate() {
            if step.new_tokens(sequence) == 0 {
                continue;
            }
            // Dense attention tells no weights; they are only needed if anything depends on them.
            let weights = weights.or_else(|| {
                let positions = lists.positions[sequence].clone();
                let query = query.clone();
                (self.accumulates || held.len() >= self.budget)
                    .then(|| ops::token_weights(query, cache, positions, step, sequence, scale))
            });
            let tokens = match weights {
                Some(weights) => self.after(held, weights),
                None => held,
            };
            let kept = KeptTokens {
                eviction: *self,
                seen: step.lengths()[sequence],
                tokens,
            };
            cache.states_mut().set(sequence, kept);
        }
        attention.output
    }
}

fn lists_of(held: &[ScoredTokens], cache: &LayerCache) -> TokenLists {
    let positions = held
        .iter()
        .map(|held| for_attention(&held.positions, cache));
    TokenLists {
        positions: positions.collect(),
        shift: None,
    }
}

/// Lists for every KV head at least: `[lists, n]` -> `[heads, n]`
fn for_attention(positions: &Tensor<2, Int>, cache: &LayerCache) -> Tensor<2, Int> {
    let [lists, _] = positions.dims();
    let [_, n_kv_heads, _, _] = cache.dims();
    for_each(lists.max(n_kv_heads), positions.clone())
}

/// Sums over the query heads of each list: `[n_heads, n]` -> `[lists, n]`
fn per_list(weights: Tensor<2>, lists: usize) -> Tensor<2> {
    let [n_heads, n] = weights.dims();
    weights
        .reshape([lists, n_heads / lists, n])
        .sum_dim(1)
        .reshape([lists, n])
}

/// The columns of the `k` highest values of each row, ascending; the last `recent` columns are
/// always among them, and of equal values the later column is.
fn best(values: Tensor<2>, k: usize, recent: usize) -> Tensor<2, Int> {
    let [lists, n] = values.dims();
    let device = values.device();
    let column = |range: core::ops::Range<usize>| {
        let width = range.len();
        let range = range.start as i64..range.end as i64;
        let column = Tensor::<1, Int>::arange(range, &device);
        column.reshape([1, width]).expand([lists, width])
    };
    let (candidates, kept) = (n - recent, k - recent);
    let values = values.slice_dim(1, 0..candidates);
    let columns = if kept + 1 == candidates {
        // One leaves: the columns behind it move up.
        let lowest = values.argmin(1).expand([lists, kept]);
        let columns = column(0..kept);
        columns.clone() + columns.greater_equal(lowest).int()
    } else {
        // Ties go to the lower place, which is the later column once they are flipped.
        let flipped = ops::reference::best_places(values.flip([1]), kept);
        (flipped * -1 + (candidates as i32 - 1)).flip([1])
    };
    match recent {
        0 => columns,
        _ => Tensor::cat(vec![columns, column(candidates..n)], 1),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn columns(values: &[f32], k: usize, recent: usize) -> Vec<i64> {
        let values = TensorData::new(values.to_vec(), [1, values.len()]);
        let columns = best(Tensor::from_data(values, &Device::default()), k, recent);
        columns.into_data().convert::<i64>().try_to_vec().unwrap()
    }

    #[test]
    fn the_highest_values_stay_in_order() {
        let values = [5., 1., 4., 2., 3.];
        assert_eq!(columns(&values, 4, 0), [0, 2, 3, 4]);
        assert_eq!(columns(&values, 2, 0), [0, 2]);
        assert_eq!(columns(&values, 1, 0), [0]);
    }

    #[test]
    fn the_most_recent_stay_whatever_their_value() {
        let values = [5., 6., 4., 2., 1.];
        assert_eq!(columns(&values, 4, 2), [0, 1, 3, 4]);
        assert_eq!(columns(&values, 3, 2), [1, 3, 4]);
    }

    #[test]
    fn of_equal_values_the_later_stay() {
        let values = [1., 0., 0., 1., 0.];
        assert_eq!(columns(&values, 4, 0), [0, 2, 3, 4]);
        assert_eq!(columns(&values, 3, 0), [0, 3, 4]);
        assert_eq!(columns(&values, 1, 0), [3]);
    }
}
