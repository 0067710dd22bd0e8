use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_models::{
    config::ModelConfig,
    generation::{GenerateError, LikelihoodMode},
    local::LocalModel,
    session::Session,
};
use serde::{Deserialize, Serialize};

use super::{PerplexityPoint, mean, perplexity_curve};
use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    results::{Journal, round_trip},
    session::session_of,
};

/// Which policies score a text, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PerplexityConfig {
    /// The policies.
    pub policies: Vec<PolicyKind>,
    /// Token budgets of every policy but the dense one; shares are of the whole text.
    pub budgets: Vec<Budget>,
    /// Tokens that are prefilled densely and not scored; all others are decoded.
    pub prefill: usize,
    /// Scored tokens between two points of a curve.
    pub window: usize,
    /// Tokens that are prefilled at once.
    pub prefill_chunk: usize,
    /// Dense layers and the selection of Quest; its budget is not used.
    pub quest: QuestConfig,
    /// Tokens of a page of the KV cache.
    pub page_size: usize,
}

/// How well a policy predicts the text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerplexityRow {
    /// The policy.
    pub policy: PolicyKind,
    /// The budget in tokens.
    pub budget: usize,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Mean negative log-likelihood of these, in nats.
    pub mean_nll: f64,
    /// The exponential of the mean.
    pub perplexity: f64,
    /// Perplexity against position.
    pub points: Vec<PerplexityPoint>,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
}

impl PerplexityConfig {
    /// Checks what can be known before the model's weights are there.
    ///
    /// # Errors
    ///
    /// When nobody is to score, the window is empty, the text has nothing to score or is beyond the
    /// model's context, or a policy cannot be made with a budget.
    pub fn check(&self, model: &ModelConfig, tokens: usize) -> Result<(), ExperimentError> {
        for (setting, value) in [
            ("policies", self.contenders().len()),
            ("window", self.window),
        ] {
            if value == 0 {
                return Err(ExperimentError::setting(setting, "at least 1", value));
            }
        }
        check_text(model, tokens, self.prefill)?;
        for contender in self.contenders() {
            contender.init(&self.quest, &model.rope, tokens, self.page_size)?;
        }
        Ok(())
    }

    fn contenders(&self) -> Vec<Contender> {
        Contender::all(&self.policies, &self.budgets)
    }
}

/// Refuses a text that is too short or too long to be scored.
pub(crate) fn check_text(
    model: &ModelConfig,
    tokens: usize,
    prefill: usize,
) -> Result<(), ExperimentError> {
    ExperimentError::check_length("length", tokens, model)?;
    let chunk = prefill.max(1);
    Ok(LikelihoodMode::Decode { prefill, chunk }.check(tokens)?)
}

/// Scores every id but the first, through the policy.
pub(crate) const DECODED: LikelihoodMode = LikelihoodMode::Decode {
    prefill: 1,
    chunk: 1,
};

/// A session that holds all tokens of the text that are prefilled, but the last of them, which
/// [`Session::likelihoods`] begins with.
pub(crate) fn prefilled(
    model: &LocalModel,
    ids: &[u32],
    prefill: usize,
    (page_size, chunk): (usize, usize),
    progress: &mut dyn FnMut(usize),
) -> Result<Session, GenerateError> {
    let mut session = session_of(model, ids.len(), page_size)?;
    if prefill > 1 {
        session.prefill(&ids[..prefill - 1], chunk, progress)?;
    }
    Ok(session)
}

/// Scores a text through every policy that the journal has no row of yet.
///
/// # Errors
///
/// When the configuration makes no sense or does not fit the text, the model fails or the journal
/// cannot be written.
pub fn run(
    model: &LocalModel,
    config: &PerplexityConfig,
    ids: &[u32],
    journal: &mut Journal<PerplexityRow>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ExperimentError> {
    config.check(model.config(), ids.len())?;
    let contenders = config.contenders();
    let scored = ids.len() - config.prefill;
    let total = contenders.len() * scored;
    let open = contenders.into_iter().filter(|contender| {
        let mut rows = journal.rows().iter();
        !rows.any(|row| (row.policy, row.asked_budget) == (contender.policy, contender.budget))
    });
    let open = open.collect::<Vec<_>>();
    if open.is_empty() {
        return Ok(());
    }
    let page_size = config.page_size;
    let sizes = (page_size, config.prefill_chunk);
    let done = journal.rows().len() * scored;
    let mut session = prefilled(model, ids, config.prefill, sizes, &mut |tokens| {
        let prefilled = Some((tokens, config.prefill - 1));
        progress(Progress {
            done,
            total,
            prefilled,
        });
    })?;
    for contender in open {
        let done = journal.rows().len() * scored;
        let policy = contender.init(
            &config.quest,
            &model.config().rope,
            ids.len(),
            config.page_size,
        )?;
        session.truncate(config.prefill - 1)?;
        session.set_policy(policy.into());
        let nll = session.likelihoods(&ids[config.prefill - 1..], DECODED, &mut |tokens| {
            progress(Progress {
                done: done + tokens,
                total,
                prefilled: None,
            });
        })?;
        let mean_nll = mean(&nll);
        let points = perplexity_curve(&nll, config.prefill, config.window);
        journal.push(PerplexityRow {
            policy: contender.policy,
            budget: contender.tokens(ids.len(), page_size),
            tokens: nll.len(),
            mean_nll: round_trip(mean_nll),
            perplexity: round_trip(mean_nll.exp()),
            points: points.into_iter().map(PerplexityPoint::rounded).collect(),
            asked_budget: contender.budget,
        })?;
    }
    Ok(())
}
