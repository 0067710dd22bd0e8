use std::sync::Arc;

use quest_burn::{
    QuestConfig,
    policy::{DensePolicy, PagePolicy, PolicyKind},
};
use quest_burn_models::{
    config::ModelConfig, generation::GenerateError, local::LocalModel, session::Session,
};
use serde::{Deserialize, Serialize};

use super::OnlyLayer;
use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    perplexity::{DECODED, check_text, perplexity, prefilled},
    results::{Journal, round_trip},
    unique,
};

/// What is tried in each layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SparsityConfig {
    /// The policies that are sparse in one layer.
    pub policies: Vec<PolicyKind>,
    /// Token budgets, in the order in which they are tried: ascending.
    pub budgets: Vec<usize>,
    /// How much the perplexity may be above that of dense attention.
    pub tolerance: f64,
    /// Tokens that are prefilled densely and not scored; all others are decoded.
    pub prefill: usize,
    /// Tokens that are prefilled at once.
    pub prefill_chunk: usize,
    /// The selection of Quest; neither its budget nor its dense layers are used.
    pub quest: QuestConfig,
    /// Tokens of a page of the KV cache.
    pub page_size: usize,
}

/// Perplexity of the text with one sparse layer, or with none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerPerplexity {
    /// The policy; dense where no layer is sparse.
    pub policy: PolicyKind,
    /// The layer that is sparse.
    pub layer: Option<usize>,
    /// The token budget of that layer.
    pub budget: Option<usize>,
    /// Perplexity of the tokens that were decoded.
    pub perplexity: f64,
}

/// How sparse a layer is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SparsityRow {
    /// The policy.
    pub policy: PolicyKind,
    /// The layer that is sparse.
    pub layer: usize,
    /// The smallest budget that keeps the perplexity; none where only the whole text does.
    pub budget: Option<usize>,
    /// The budget as a share of the text; 1 where there is none.
    pub share: f64,
    /// Perplexity with this budget.
    pub perplexity: f64,
    /// Perplexity of dense attention.
    pub dense_perplexity: f64,
}

impl SparsityConfig {
    /// Powers of two times the page size that are smaller than the text.
    pub fn default_budgets(page_size: usize, tokens: usize) -> Vec<usize> {
        let smallest = page_size.max(1);
        let budgets = std::iter::successors(Some(smallest), |budget| budget.checked_mul(2));
        budgets.take_while(|&budget| budget < tokens).collect()
    }

    /// Checks what can be known before the model's weights are there.
    ///
    /// # Errors
    ///
    /// When there is nothing to try, budgets do not ascend, the tolerance is not a number of at
    /// least 0, the text has nothing to score or is beyond the model's context, or a policy cannot
    /// be made with a budget.
    pub fn check(&self, model: &ModelConfig, tokens: usize) -> Result<(), ExperimentError> {
        check_text(model, tokens, self.prefill)?;
        for (setting, n) in [
            ("policies", self.policies.len()),
            ("budgets", self.budgets.len()),
        ] {
            if n == 0 {
                return Err(ExperimentError::setting(setting, "at least 1", n));
            }
        }
        if let Some(dense) = self.policies.iter().find(|&&p| p == PolicyKind::Dense) {
            let expected = "policies that leave something out";
            return Err(ExperimentError::setting("policies", expected, dense));
        }
        if let Some(pair) = self.budgets.windows(2).find(|pair| pair[0] >= pair[1]) {
            let found = format!("{} before {}", pair[0], pair[1]);
            return Err(ExperimentError::setting(
                "budgets",
                "an ascending list",
                found,
            ));
        }
        if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            let expected = "a finite number of at least 0";
            return Err(ExperimentError::setting(
                "tolerance",
                expected,
                self.tolerance,
            ));
        }
        for policy in self.policies() {
            for &budget in &self.budgets {
                self.policy(model, policy, 0, budget, tokens)?;
            }
        }
        Ok(())
    }

    /// The policies, none repeated.
    fn policies(&self) -> Vec<PolicyKind> {
        unique(self.policies.iter().copied())
    }

    /// Every layer with every policy.
    fn cases(&self, n_layers: usize) -> Vec<(usize, PolicyKind)> {
        let policies = self.policies();
        let of_layer = |layer| policies.iter().map(move |&policy| (layer, policy));
        (0..n_layers).flat_map(of_layer).collect()
    }

    fn policy(
        &self,
        model: &ModelConfig,
        policy: PolicyKind,
        layer: usize,
        budget: usize,
        tokens: usize,
    ) -> Result<OnlyLayer, ExperimentError> {
        let contender = Contender {
            policy,
            budget: Some(Budget::Tokens(budget)),
        };
        let quest = self.quest.clone().with_dense_layers(0);
        let policy = contender.init(&quest, &model.rope, tokens, self.page_size)?;
        Ok(OnlyLayer::new(layer, policy))
    }

    fn keeps(&self, perplexity: f64, dense: f64) -> bool {
        perplexity <= dense + self.tolerance
    }
}

/// Tries budgets in each layer, from the smallest on, until one keeps the perplexity: no budget
/// below the one that is found does. What the journal holds is not computed again.
///
/// # Errors
///
/// When the configuration makes no sense or does not fit the text, the model fails or the journal
/// cannot be written.
pub fn run(
    model: &LocalModel,
    config: &SparsityConfig,
    ids: &[u32],
    journal: &mut Journal<LayerPerplexity>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ExperimentError> {
    config.check(model.config(), ids.len())?;
    let cases = config.cases(model.config().n_layers);
    let n_budgets = config.budgets.len();
    let mut search = Search {
        model,
        config,
        ids,
        session: None,
        journal,
        total: cases.len() * n_budgets,
        progress,
    };
    let dense = search.perplexity(0, None)?;
    for (index, (layer, policy)) in cases.into_iter().enumerate() {
        for (tried, &budget) in config.budgets.iter().enumerate() {
            let done = index * n_budgets + tried;
            let perplexity = search.perplexity(done, Some((policy, layer, budget)))?;
            if config.keeps(perplexity, dense) {
                break;
            }
        }
        search.report((index + 1) * n_budgets, None);
    }
    Ok(())
}

/// A search under way.
struct Search<'a> {
    model: &'a LocalModel,
    config: &'a SparsityConfig,
    ids: &'a [u32],
    /// Holds the text up to where it is decoded, once something has been computed.
    session: Option<Session>,
    journal: &'a mut Journal<LayerPerplexity>,
    total: usize,
    progress: &'a mut dyn FnMut(Progress),
}

impl Search<'_> {
    /// The perplexity with one sparse layer, or with none: from the journal, or computed and
    /// written there.
    fn perplexity(
        &mut self,
        done: usize,
        sparse: Option<(PolicyKind, usize, usize)>,
    ) -> Result<f64, ExperimentError> {
        let (kind, layer, budget) = match sparse {
            Some((kind, layer, budget)) => (kind, Some(layer), Some(budget)),
            None => (PolicyKind::Dense, None, None),
        };
        if let Some(perplexity) = find(self.journal.rows(), kind, layer, budget) {
            return Ok(perplexity);
        }
        let (model, config) = (self.model, self.config);
        let policy: Arc<dyn PagePolicy> = match sparse {
            Some((kind, layer, budget)) => {
                Arc::new(config.policy(model.config(), kind, layer, budget, self.ids.len())?)
            }
            None => Arc::new(DensePolicy),
        };
        let nll = self.likelihoods(done, policy)?;
        let perplexity = round_trip(perplexity(&nll));
        self.journal.push(LayerPerplexity {
            policy: kind,
            layer,
            budget,
            perplexity,
        })?;
        self.report(done + 1, None);
        Ok(perplexity)
    }

    fn likelihoods(
        &mut self,
        done: usize,
        policy: Arc<dyn PagePolicy>,
    ) -> Result<Vec<f32>, GenerateError> {
        let config = self.config;
        let held = config.prefill - 1;
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let sizes = (config.page_size, config.prefill_chunk);
                prefilled(self.model, self.ids, config.prefill, sizes, &mut |tokens| {
                    self.report(done, Some((tokens, held)));
                })?
            }
        };
        session.truncate(held)?;
        session.set_policy(policy);
        let nll = session.likelihoods(&self.ids[held..], DECODED, &mut |_| ());
        self.session = Some(session);
        nll
    }

    fn report(&mut self, done: usize, prefilled: Option<(usize, usize)>) {
        (self.progress)(Progress {
            done,
            total: self.total,
            prefilled,
        });
    }
}

fn find(
    rows: &[LayerPerplexity],
    policy: PolicyKind,
    layer: Option<usize>,
    budget: Option<usize>,
) -> Option<f64> {
    let key = (policy, layer, budget);
    let row = rows
        .iter()
        .find(|row| (row.policy, row.layer, row.budget) == key);
    row.map(|row| row.perplexity)
}

/// The smallest budget of each layer and policy, layers first, in a text of that many tokens.
///
/// # Panics
///
/// When a perplexity is missing: [`run`] was not through.
pub fn rows(
    config: &SparsityConfig,
    n_layers: usize,
    tokens: usize,
    measured: &[LayerPerplexity],
) -> Vec<SparsityRow> {
    let dense = find(measured, PolicyKind::Dense, None, None);
    let dense = dense.expect("dense attention was measured first");
    let row = |(layer, policy)| {
        let mut kept = config.budgets.iter().filter_map(|&budget| {
            let perplexity = find(measured, policy, Some(layer), Some(budget))?;
            config
                .keeps(perplexity, dense)
                .then_some((budget, perplexity))
        });
        let kept = kept.next();
        SparsityRow {
            policy,
            layer,
            budget: kept.map(|(budget, _)| budget),
            share: kept.map_or(1.0, |(budget, _)| (budget as f64 / tokens as f64).min(1.0)),
            perplexity: kept.map_or(dense, |(_, perplexity)| perplexity),
            dense_perplexity: dense,
        }
    };
    config.cases(n_layers).into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SparsityConfig {
        SparsityConfig {
            policies: vec![PolicyKind::QUEST],
            budgets: vec![16, 32, 64],
            tolerance: 0.01,
            prefill: 1,
            prefill_chunk: 512,
            quest: QuestConfig::new(),
            page_size: 16,
        }
    }

    #[test]
    fn default_budgets_double_from_a_page_on_and_leave_something_out() {
        let budgets = SparsityConfig::default_budgets(16, 128);
        assert_eq!(budgets, [16, 32, 64]);
        assert!(SparsityConfig::default_budgets(16, 16).is_empty());
        assert_eq!(SparsityConfig::default_budgets(0, 3), [1, 2]);
    }

    #[test]
    fn the_smallest_budget_that_keeps_the_perplexity_is_found() {
        let of = |layer, budget, perplexity| LayerPerplexity {
            policy: PolicyKind::QUEST,
            layer: Some(layer),
            budget: Some(budget),
            perplexity,
        };
        let dense = LayerPerplexity {
            policy: PolicyKind::Dense,
            layer: None,
            budget: None,
            perplexity: 5.0,
        };
        let measured = [
            dense,
            of(0, 16, 7.0),
            of(0, 32, 5.02),
            of(0, 64, 5.005),
            of(1, 16, 4.0),
            of(2, 16, 9.0),
            of(2, 32, 9.0),
            of(2, 64, 9.0),
        ];
        let rows = rows(&config(), 3, 256, &measured);
        let found = rows
            .iter()
            .map(|row| (row.layer, row.budget, row.share, row.perplexity));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                (0, Some(64), 0.25, 5.005),
                (1, Some(16), 0.0625, 4.0),
                (2, None, 1.0, 5.0),
            ]
        );
    }
}
