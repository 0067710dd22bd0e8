use std::sync::Arc;

use quest_burn::{
    QuestConfig,
    policy::{Observation, ObservedPolicy, PolicyKind},
};
use quest_burn_models::{config::ModelConfig, local::LocalModel};
use serde::{Deserialize, Serialize};

use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    results::{Journal, round_trip},
    session::session_of,
};

/// What is compared, on a text that is given as ids.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecallConfig {
    /// Tokens of the text at its end that are fed one by one.
    pub steps: usize,
    /// Token budgets.
    pub budgets: Vec<Budget>,
    /// The policies.
    pub policies: Vec<PolicyKind>,
    /// Tokens that are prefilled at once.
    pub prefill_chunk: usize,
    /// Dense layers and the selection of Quest; its budget is not used.
    pub quest: QuestConfig,
    /// Tokens of a page of the KV cache.
    pub page_size: usize,
}

/// What one policy read with one budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecallOutcome {
    /// The policy.
    pub policy: PolicyKind,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
    /// The budget in tokens.
    pub budget: usize,
    /// Every layer, in order.
    pub layers: Vec<LayerRecall>,
    /// For each step, the recall as the mean of all heads of the layers that are not dense.
    pub recall_by_step: Vec<f64>,
}

/// What was read in one layer: means over steps and heads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerRecall {
    /// Share of the ten tokens with the highest true attention that was read.
    pub recall: f64,
    /// Share of the true attention that falls on what was read.
    pub mass: f64,
    /// Share of the tokens in the cache that was read.
    pub read: f64,
}

/// A line of the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecallRow {
    /// The policy.
    pub policy: PolicyKind,
    /// Tokens of the text.
    pub length: usize,
    /// The budget in tokens.
    pub budget: usize,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
    /// The layer; none in the mean of the layers that are not dense.
    pub layer: Option<usize>,
    /// Tokens that were fed one by one.
    pub steps: usize,
    /// What was read.
    #[serde(flatten)]
    pub of: LayerRecall,
    /// For each step, the recall as the mean of all heads; in the mean of the layers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall_by_step: Option<Vec<f64>>,
}

impl RecallConfig {
    /// Checks what can be known before the model's weights are there, for a text of `length`
    /// tokens.
    ///
    /// # Errors
    ///
    /// When there is nothing to compare, the text is too short or too long, or a policy cannot be
    /// made with a budget.
    pub fn check(&self, model: &ModelConfig, length: usize) -> Result<(), ExperimentError> {
        let settings = [
            ("policies", self.policies.len()),
            ("budgets and policies", self.contenders().len()),
            ("steps", self.steps),
        ];
        for (setting, value) in settings {
            if value == 0 {
                return Err(ExperimentError::setting(setting, "at least 1", value));
            }
        }
        if self.steps >= length {
            let expected = format!("fewer than the {length} tokens of the text");
            return Err(ExperimentError::setting("steps", expected, self.steps));
        }
        ExperimentError::check_length("length", length, model)?;
        let layers = model.n_layers;
        if self.quest.dense_layers >= layers {
            let expected = format!("fewer than the {layers} layers of the model");
            let found = self.quest.dense_layers;
            return Err(ExperimentError::setting("dense layers", expected, found));
        }
        if let Some(windows) = &model.blocks.windows {
            // Their layers read what is in the window, and no policy is asked.
            let found = format!("windows of {} tokens", windows.tokens);
            return Err(ExperimentError::setting(
                "model",
                "a model without sliding windows",
                found,
            ));
        }
        for contender in self.contenders() {
            self.policy(model, contender, length)?;
        }
        Ok(())
    }

    fn contenders(&self) -> Vec<Contender> {
        Contender::all(&self.policies, &self.budgets)
    }

    fn policy(
        &self,
        model: &ModelConfig,
        contender: Contender,
        length: usize,
    ) -> Result<ObservedPolicy, ExperimentError> {
        let policy = contender.init(&self.quest, &model.rope, length, self.page_size)?;
        Ok(ObservedPolicy::new(policy))
    }
}

impl RecallOutcome {
    fn contender(&self) -> Contender {
        Contender {
            policy: self.policy,
            budget: self.asked_budget,
        }
    }
}

/// Watches every policy with every budget that the journal has no outcome of yet.
///
/// The text is prefilled once for all of them.
///
/// # Errors
///
/// When the configuration makes no sense, the model fails or the journal cannot be written.
pub fn run(
    model: &LocalModel,
    config: &RecallConfig,
    ids: &[u32],
    journal: &mut Journal<RecallOutcome>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ExperimentError> {
    config.check(model.config(), ids.len())?;
    let contenders = config.contenders();
    let (known, total) = (journal.rows().len(), contenders.len());
    let known_contenders = journal.rows().iter().map(RecallOutcome::contender);
    let known_contenders = known_contenders.collect::<Vec<_>>();
    let open = contenders.into_iter();
    let open = open.filter(|contender| !known_contenders.contains(contender));
    let open = open.collect::<Vec<_>>();
    if open.is_empty() {
        return Ok(());
    }

    let (text, fed) = ids.split_at(ids.len() - config.steps);
    let mut session = session_of(model, ids.len(), config.page_size)?;
    session.prefill(text, config.prefill_chunk, &mut |tokens| {
        progress(Progress {
            done: known,
            total,
            prefilled: Some((tokens, text.len())),
        });
    })?;
    for contender in open {
        let policy = config.policy(model.config(), contender, ids.len())?;
        let observations = policy.observations();
        session.set_policy(Arc::new(policy));
        session.truncate(text.len())?;
        let mut steps = Vec::with_capacity(fed.len());
        for &id in fed {
            session.decode(id)?;
            steps.push(observations.take().iter().map(of_layer).collect::<Vec<_>>());
        }
        let dense = config.quest.dense_layers;
        journal.push(RecallOutcome {
            policy: contender.policy,
            asked_budget: contender.budget,
            budget: contender.tokens(ids.len(), config.page_size),
            layers: (0..model.config().n_layers)
                .map(|layer| mean(steps.iter().map(|layers| layers[layer])))
                .collect(),
            recall_by_step: steps
                .iter()
                .map(|layers| mean(layers[dense..].iter().copied()).recall)
                .collect(),
        })?;
        progress(Progress {
            done: journal.rows().len(),
            total,
            prefilled: None,
        });
    }
    Ok(())
}

/// One layer at one step: means over heads.
fn of_layer(observation: &Observation) -> LayerRecall {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let read = observation.tokens_read();
    let read = read.iter().map(|&tokens| tokens as f64).collect::<Vec<_>>();
    LayerRecall {
        recall: mean(&observation.top_recall),
        mass: mean(&observation.mass),
        read: mean(&read) / observation.length as f64,
    }
}

/// The mean of some layers or steps.
fn mean(of: impl Iterator<Item = LayerRecall> + Clone) -> LayerRecall {
    let n = of.clone().count() as f64;
    let mean = |value: fn(LayerRecall) -> f64| {
        let sum = of.clone().map(value).sum::<f64>();
        round_trip(sum / n)
    };
    LayerRecall {
        recall: mean(|layer| layer.recall),
        mass: mean(|layer| layer.mass),
        read: mean(|layer| layer.read),
    }
}

/// The mean of the layers that are not dense, then every layer, of each policy and budget.
pub fn rows(config: &RecallConfig, length: usize, outcomes: &[RecallOutcome]) -> Vec<RecallRow> {
    let ordered = config.contenders().into_iter().filter_map(|contender| {
        outcomes
            .iter()
            .find(|outcome| outcome.contender() == contender)
    });
    let mut rows = Vec::new();
    for outcome in ordered {
        let sparse = outcome.layers[config.quest.dense_layers..].iter().copied();
        let layers = outcome.layers.iter().copied().enumerate();
        let all = layers.map(|(layer, of)| (Some(layer), of));
        for (layer, of) in [(None, mean(sparse))].into_iter().chain(all) {
            rows.push(RecallRow {
                policy: outcome.policy,
                length,
                budget: outcome.budget,
                asked_budget: outcome.asked_budget,
                layer,
                steps: config.steps,
                of,
                recall_by_step: layer.is_none().then(|| outcome.recall_by_step.clone()),
            });
        }
    }
    rows
}
