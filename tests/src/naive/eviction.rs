use quest_burn::{
    PageSharing,
    policy::{H2oConfig, ObservedPolicy, TovaConfig},
};

use super::attend;

/// A policy that evicts tokens.
#[derive(Clone, Debug)]
pub enum Evicting {
    /// H2O.
    H2o {
        /// Most recent tokens that are kept.
        recent: usize,
        /// Which heads keep the same tokens.
        sharing: PageSharing,
    },
    /// TOVA.
    Tova,
}

impl Evicting {
    /// The policy itself, watched.
    ///
    /// # Panics
    ///
    /// When the budget is too small.
    pub fn policy(&self, budget: usize) -> ObservedPolicy {
        ObservedPolicy::new(match self {
            Self::H2o { recent, sharing } => {
                let config = H2oConfig::new()
                    .with_token_budget(budget)
                    .with_recent_tokens(Some(*recent))
                    .with_sharing(*sharing)
                    .with_dense_layers(0);
                Box::new(config.init().expect("the configuration is valid"))
            }
            Self::Tova => {
                let config = TovaConfig::new().with_token_budget(budget);
                let config = config.with_dense_layers(0);
                Box::new(config.init().expect("the configuration is valid"))
            }
        })
    }

    /// How many lists of tokens there are.
    fn lists(&self, n_heads: usize, n_kv_heads: usize) -> usize {
        match self {
            Self::H2o {
                sharing: PageSharing::QueryHead,
                ..
            } => n_heads,
            Self::H2o { .. } => n_kv_heads,
            Self::Tova => 1,
        }
    }

    fn recent(&self) -> usize {
        match self {
            Self::H2o { recent, .. } => *recent,
            Self::Tova => 0,
        }
    }
}

/// Tokens and the attention that they have received, of one list.
type Held = Vec<(usize, f64)>;

/// Evicts the tokens with the lowest values but the most recent until `n` are left.
fn evict(held: &mut Held, values: &[f64], n: usize, recent: usize) {
    let mut values = values.to_vec();
    while held.len() > n {
        let lowest = (0..held.len() - recent).min_by(|&a, &b| values[a].total_cmp(&values[b]));
        let lowest = lowest.expect("there are tokens to evict");
        held.remove(lowest);
        values.remove(lowest);
    }
}

/// What an evicting policy keeps of one sequence.
#[derive(Debug)]
pub struct Kept<'a> {
    evicting: &'a Evicting,
    budget: usize,
    lists: Vec<Held>,
    seen: usize,
}

impl<'a> Kept<'a> {
    /// Nothing yet.
    pub fn new(evicting: &'a Evicting, budget: usize, n_heads: usize, n_kv_heads: usize) -> Self {
        Self {
            evicting,
            budget,
            lists: vec![Held::new(); evicting.lists(n_heads, n_kv_heads)],
            seen: 0,
        }
    }

    /// Attention weights of a list's heads, summed.
    fn received(
        &self,
        list: usize,
        queries: &[Vec<f64>],
        keys: &[Vec<Vec<f64>>],
        scale: f64,
    ) -> Vec<f64> {
        let group = queries.len() / self.lists.len();
        let tokens = self.lists[list].iter().map(|t| t.0).collect::<Vec<_>>();
        let mut sum = vec![0.0; tokens.len()];
        for head in list * group..(list + 1) * group {
            let keys = &keys[head * keys.len() / queries.len()];
            for (i, sum) in sum.iter_mut().enumerate() {
                // Attention over one-hot values is the attention itself.
                let one_hot = (0..keys.len())
                    .map(|t| vec![f64::from(u8::from(t == tokens[i]))])
                    .collect::<Vec<_>>();
                *sum += attend(&queries[head], keys, &one_hot, &tokens, scale)[0];
            }
        }
        sum
    }

    /// What each list reads for a new query of each head; keys are those of all tokens.
    pub fn step(
        &mut self,
        queries: &[Vec<f64>],
        keys: &[Vec<Vec<f64>>],
        scale: f64,
    ) -> Vec<Vec<usize>> {
        let length = keys[0].len();
        let accumulates = matches!(self.evicting, Evicting::H2o { .. });
        let recent = self.evicting.recent();
        for list in 0..self.lists.len() {
            self.lists[list].extend((self.seen..length).map(|token| (token, 0.0)));
            if self.lists[list].len() > self.budget {
                let now = self.received(list, queries, keys, scale);
                let held = &mut self.lists[list];
                let values = held.iter().zip(now).map(|(t, now)| t.1 + now);
                let values = values.collect::<Vec<_>>();
                evict(held, &values, self.budget, recent);
            }
        }
        self.seen = length;
        let read = |list: &Held| list.iter().map(|t| t.0).collect();
        let read = self.lists.iter().map(read).collect();
        for list in 0..self.lists.len() {
            let now = self.received(list, queries, keys, scale);
            let held = &mut self.lists[list];
            if accumulates {
                held.iter_mut().zip(&now).for_each(|(t, now)| t.1 += now);
            }
            let values = match accumulates {
                true => held.iter().map(|t| t.1).collect(),
                false => now,
            };
            evict(held, &values, self.budget - 1, recent.saturating_sub(1));
        }
        read
    }
}
