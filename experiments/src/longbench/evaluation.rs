use std::collections::HashSet;

use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_models::{
    config::ModelConfig, local::LocalModel, session::Session, tokenizer::Tokenizer,
};
use serde::{Deserialize, Serialize};

use super::{Metric, Prompt, PromptIds, Record, Task, TaskData};
use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    results::{Journal, round_trip},
    session::{ask, require_tokenizer, session_of},
};

/// How a model is evaluated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LongBenchConfig {
    /// The policies.
    pub policies: Vec<PolicyKind>,
    /// Token budgets of every policy but the dense one; shares are of a record's prompt.
    pub budgets: Vec<Budget>,
    /// Tokens that a prompt and its answer may take together; longer prompts lose their middle.
    pub context: usize,
    /// Tokens that are prefilled at once.
    pub prefill_chunk: usize,
    /// Dense layers and the selection of Quest; its budget is not used.
    pub quest: QuestConfig,
    /// Tokens of a page of the KV cache.
    pub page_size: usize,
}

/// What a policy answered to a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The task.
    pub task: Task,
    /// The record.
    pub id: String,
    /// Who answered.
    pub policy: PolicyKind,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
    /// The budget in tokens.
    pub budget: usize,
    /// Tokens of the prompt that were read, those that were decoded included.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were decoded through the policy.
    pub decoded_tokens: usize,
    /// Tokens that were cut out of the middle of the prompt.
    pub cut_tokens: usize,
    /// What was generated, as text.
    pub answer: String,
    /// Its score, from 0 to 1.
    pub score: f64,
}

impl Prediction {
    fn contender(&self) -> Contender {
        Contender {
            policy: self.policy,
            budget: self.asked_budget,
        }
    }
}

/// How a policy did in a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LongBenchRow {
    /// The task.
    pub task: Task,
    /// How its answers are scored.
    pub metric: Metric,
    /// Who answered.
    pub policy: PolicyKind,
    /// The budget in tokens: the mean over the records, rounded.
    pub budget: usize,
    /// Records that were answered.
    pub records: usize,
    /// Those whose prompt was longer than the context and lost its middle.
    pub cut: usize,
    /// Mean score in percent, as LongBench gives it.
    pub score: f64,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
}

impl LongBenchRow {
    pub(super) fn contender(&self) -> Contender {
        Contender {
            policy: self.policy,
            budget: self.asked_budget,
        }
    }
}

impl LongBenchConfig {
    /// Checks what can be known before the model's weights are there.
    ///
    /// # Errors
    ///
    /// When nobody is to answer, there is no tokenizer, the context is beyond the model's, or a
    /// policy cannot be made with a budget.
    pub fn check(
        &self,
        model: &ModelConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), ExperimentError> {
        if self.contenders().is_empty() {
            return Err(ExperimentError::setting("policies", "at least 1", 0));
        }
        require_tokenizer(tokenizer)?;
        ExperimentError::check_length("context", self.context, model)?;
        for contender in self.contenders() {
            contender.init(&self.quest, &model.rope, self.context, self.page_size)?;
        }
        Ok(())
    }

    fn contenders(&self) -> Vec<Contender> {
        Contender::all(&self.policies, &self.budgets)
    }
}

/// Lets every policy answer every record that the journal has no answer to yet.
///
/// A record's prompt is prefilled once for all policies: prefill is dense for all of them, and each
/// continues from the same cache.
///
/// # Errors
///
/// When the configuration makes no sense, a question does not fit into the context, the model fails
/// or the journal cannot be written.
pub fn run(
    model: &LocalModel,
    config: &LongBenchConfig,
    data: &[TaskData],
    journal: &mut Journal<Prediction>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ExperimentError> {
    config.check(model.config(), model.tokenizer())?;
    let contenders = config.contenders();
    let answered = journal.rows().iter();
    let answered = answered.map(|row| (row.task, row.id.clone(), row.contender()));
    let answered = answered.collect::<HashSet<_>>();
    let total = contenders.len() * data.iter().map(|data| data.records.len()).sum::<usize>();
    for data in data {
        let task = data.task;
        let mut prompts = Vec::new();
        for record in &data.records {
            let open = contenders.iter().copied();
            let open = open.filter(|&who| !answered.contains(&(task, record.id.clone(), who)));
            let open = open.collect::<Vec<_>>();
            if !open.is_empty() {
                let ids = prompt_ids(model, config, task, record)?;
                prompts.push((record, ids, open));
            }
        }
        let longest = prompts.iter().map(|(_, ids, _)| ids.tokens()).max();
        let Some(longest) = longest else {
            continue;
        };
        let tokens = longest + task.max_new_tokens();
        let mut session = session_of(model, tokens, config.page_size)?;
        for (record, ids, open) in prompts {
            let done = journal.rows().len();
            session.truncate(0)?;
            session.prefill(&ids.prefilled, config.prefill_chunk, &mut |tokens| {
                progress(Progress {
                    done,
                    total,
                    prefilled: Some((tokens, ids.prefilled.len())),
                });
            })?;
            for contender in open {
                let answer = answer(model, config, &mut session, task, &ids, contender)?;
                let (prompt_tokens, page_size) = (ids.tokens(), config.page_size);
                journal.push(Prediction {
                    task,
                    id: record.id.clone(),
                    policy: contender.policy,
                    asked_budget: contender.budget,
                    budget: contender.tokens(prompt_tokens, page_size),
                    prompt_tokens,
                    decoded_tokens: ids.decoded.len(),
                    cut_tokens: ids.cut,
                    score: round_trip(task.score(&answer, &record.answers)),
                    answer,
                })?;
                progress(Progress {
                    done: journal.rows().len(),
                    total,
                    prefilled: None,
                });
            }
        }
    }
    Ok(())
}

fn prompt_ids(
    model: &LocalModel,
    config: &LongBenchConfig,
    task: Task,
    record: &Record,
) -> Result<PromptIds, ExperimentError> {
    let prompt = Prompt::new(task, record);
    let new_tokens = task.max_new_tokens();
    let ids = prompt.ids(
        require_tokenizer(model.tokenizer())?,
        new_tokens,
        config.context,
    );
    ids.map_err(|source| ExperimentError::Prompt {
        task,
        id: record.id.clone(),
        source,
    })
}

/// What a policy generates after the prefilled part of a prompt.
fn answer(
    model: &LocalModel,
    config: &LongBenchConfig,
    session: &mut Session,
    task: Task,
    ids: &PromptIds,
    contender: Contender,
) -> Result<String, ExperimentError> {
    let policy = contender.init(
        &config.quest,
        &model.config().rope,
        ids.tokens(),
        config.page_size,
    )?;
    session.truncate(ids.prefilled.len())?;
    let stop_ids = model.stop_ids();
    session.set_policy(policy.into());
    let mut answer = ask(session, &ids.decoded, task.max_new_tokens(), stop_ids)?;
    if answer.last().is_some_and(|last| stop_ids.contains(last)) {
        answer.pop();
    }
    Ok(require_tokenizer(model.tokenizer())?.decode(&answer)?)
}

/// The mean score of each policy and budget in each task, tasks first.
pub fn rows(
    config: &LongBenchConfig,
    data: &[TaskData],
    predictions: &[Prediction],
) -> Vec<LongBenchRow> {
    let mut rows = Vec::new();
    for task in data.iter().map(|data| data.task) {
        for contender in config.contenders() {
            let answers = predictions
                .iter()
                .filter(|row| row.task == task && row.contender() == contender);
            let records = answers.clone().count();
            let mean = |sum: f64| sum / records.max(1) as f64;
            let budget = answers.clone().map(|row| row.budget as f64).sum();
            let score = answers.clone().map(|row| row.score).sum();
            rows.push(LongBenchRow {
                task,
                metric: task.metric(),
                policy: contender.policy,
                budget: mean(budget).round() as usize,
                records,
                cut: answers.filter(|row| row.cut_tokens > 0).count(),
                score: round_trip(100.0 * mean(score)),
                asked_budget: contender.budget,
            });
        }
    }
    rows
}
