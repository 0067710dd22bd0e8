use std::collections::HashSet;

use quest_burn::{
    QuestConfig,
    policy::{PagePolicy, PolicyKind},
};
use quest_burn_models::{
    config::ModelConfig, local::LocalModel, session::Session, tokenizer::Tokenizer,
};
use serde::{Deserialize, Serialize};

use super::{Document, Haystack, RulerPrompt, RulerTask, score, task::Material};
use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    passkey::ask,
    results::{Journal, round_trip},
    seed,
    session::{require_tokenizer, session_of},
    unique,
};

/// What is asked, and of whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RulerConfig {
    /// The tasks.
    pub tasks: Vec<RulerTask>,
    /// Tokens of prompt and answer together.
    pub lengths: Vec<usize>,
    /// Evenly spaced depths of needles; other tasks have none.
    pub depths: usize,
    /// Prompts for each task, length and depth.
    pub trials: usize,
    /// Token budgets of every policy but the dense one.
    pub budgets: Vec<Budget>,
    /// The policies.
    pub policies: Vec<PolicyKind>,
    /// Tokens of an answer at most; RULER's number for each task where none is given.
    pub answer_tokens: Option<usize>,
    /// Tokens that are prefilled at once.
    pub prefill_chunk: usize,
    /// Dense layers and the selection of Quest; its budget is not used.
    pub quest: QuestConfig,
    /// Tokens of a page of the KV cache.
    pub page_size: usize,
    /// What needles and variables lie in.
    #[serde(skip)]
    pub haystack: Haystack,
    /// What questions are about.
    #[serde(skip)]
    pub documents: Vec<Document>,
    /// Seed of what is drawn.
    #[serde(skip)]
    pub seed: u64,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulerOutcome {
    /// Who answered.
    pub policy: PolicyKind,
    /// The task.
    pub task: RulerTask,
    /// Tokens of prompt and answer together.
    pub length: usize,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
    /// The budget in tokens.
    pub budget: usize,
    /// Share of the text before the first needle that is asked for.
    pub depth: Option<f64>,
    /// Which of the trials, from 0.
    pub trial: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What the answer should hold.
    pub expected: Vec<String>,
    /// The answer, as text.
    pub answer: String,
    /// Its score, from 0 to 1.
    pub score: f64,
}

/// The answers of one policy to a task, all depths and trials together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RulerRow {
    /// Who answered.
    pub policy: PolicyKind,
    /// The task.
    pub task: RulerTask,
    /// Tokens of prompt and answer together.
    pub length: usize,
    /// The budget in tokens.
    pub budget: usize,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
    /// Answers.
    pub trials: usize,
    /// Their mean score, from 0 to 1.
    pub score: f64,
}

/// A prompt, before it is made.
#[derive(Clone, Copy)]
struct Trial {
    task: RulerTask,
    length: usize,
    depth: Option<usize>,
    trial: usize,
}

impl RulerConfig {
    /// Checks what can be known before the model's weights are there.
    ///
    /// # Errors
    ///
    /// When there is nothing to ask or nobody to answer, documents are missing, a length is beyond
    /// `max_positions` or too short for a task, or a policy cannot be made with a budget.
    pub fn check(
        &self,
        model: &ModelConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), ExperimentError> {
        let needs_no_budget = self.policies.iter().all(|&p| p == PolicyKind::Dense);
        let budgets = self.budgets.len() + usize::from(needs_no_budget);
        let least = [
            ("tasks", self.tasks.len()),
            ("depths", self.depths),
            ("trials", self.trials),
            ("answer tokens", self.answer_tokens.unwrap_or(1)),
            ("lengths", self.lengths.len()),
            ("policies", self.policies.len()),
            ("budgets", budgets),
        ];
        for (setting, value) in least {
            if value == 0 {
                return Err(ExperimentError::setting(setting, "at least 1", value));
            }
        }
        if self.tasks.contains(&RulerTask::Questions) && self.documents.is_empty() {
            let expected = "a file of documents for the task qa";
            return Err(ExperimentError::setting("documents", expected, "none"));
        }
        for &length in &self.lengths {
            ExperimentError::check_length("length", length, model)?;
            for contender in self.contenders() {
                self.policy(model, contender, length)?;
            }
            for &task in &self.tasks {
                let trial = self.trials(task, length).next().expect("a trial");
                self.prompt(require_tokenizer(tokenizer)?, trial)?;
            }
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
    ) -> Result<Box<dyn PagePolicy>, ExperimentError> {
        Ok(contender.init(&self.quest, &model.rope, length, self.page_size)?)
    }

    fn answer_tokens(&self, task: RulerTask) -> usize {
        self.answer_tokens.unwrap_or(task.answer_tokens())
    }

    fn tasks(&self) -> Vec<RulerTask> {
        unique(self.tasks.iter().copied())
    }

    fn lengths(&self) -> Vec<usize> {
        unique(self.lengths.iter().copied())
    }

    /// The prompts of a task and length.
    fn trials(&self, task: RulerTask, length: usize) -> impl Iterator<Item = Trial> {
        let depths = if task.has_depth() { self.depths } else { 1 };
        (0..depths).flat_map(move |depth| {
            (0..self.trials).map(move |trial| Trial {
                task,
                length,
                depth: task.has_depth().then_some(depth),
                trial,
            })
        })
    }

    /// From 0 to 1, both included; of one depth the middle. In millionths, which come back from a
    /// file as they were.
    fn depth(&self, index: usize) -> f64 {
        let share = match self.depths {
            1 => 0.5,
            depths => index as f64 / (depths - 1) as f64,
        };
        (share * 1e6).round() / 1e6
    }

    fn prompt(&self, tokenizer: &Tokenizer, trial: Trial) -> Result<RulerPrompt, ExperimentError> {
        let Trial { task, length, .. } = trial;
        let parts = [
            RulerTask::ALL.iter().position(|&t| t == task).unwrap_or(0),
            length,
            trial.depth.unwrap_or(0),
            trial.trial,
        ];
        let seed = seed::of_trial(self.seed, parts);
        let material = Material {
            haystack: &self.haystack,
            documents: &self.documents,
        };
        let depth = trial.depth.map_or(0.5, |index| self.depth(index));
        let answer = self.answer_tokens(task);
        let room = length.saturating_sub(answer);
        let sizes = task.sizes(material);
        RulerPrompt::fit(tokenizer, room, sizes, |size| {
            task.text(size, seed, depth, trial.trial, material)
        })
        .map_err(|error| error.of_length(length, answer))
    }

    /// Asks one policy, on a session that holds what is prefilled of the prompt.
    fn outcome(
        &self,
        model: &LocalModel,
        session: &mut Session,
        prompt: &RulerPrompt,
        trial: Trial,
        contender: Contender,
    ) -> Result<RulerOutcome, ExperimentError> {
        let policy = self.policy(model.config(), contender, trial.length)?;
        session.truncate(prompt.prefill)?;
        session.set_policy(policy.into());
        let question = &prompt.ids[prompt.prefill..];
        let tokens = self.answer_tokens(trial.task);
        let answer = ask(session, question, tokens, model.stop_ids())?;
        let answer = require_tokenizer(model.tokenizer())?.decode(&answer)?;
        let score = score(&answer, &prompt.expected, trial.task.any_is_enough());
        Ok(RulerOutcome {
            policy: contender.policy,
            task: trial.task,
            length: trial.length,
            asked_budget: contender.budget,
            budget: contender.tokens(trial.length, self.page_size),
            depth: trial.depth.map(|index| self.depth(index)),
            trial: trial.trial,
            prompt_tokens: prompt.ids.len(),
            expected: prompt.expected.clone(),
            answer,
            score: round_trip(score),
        })
    }
}

/// Asks every policy everything that the journal has no answer to yet.
///
/// A prompt is prefilled once for all policies: prefill is dense for all of them, and each goes on
/// from the same cache.
///
/// # Errors
///
/// When the configuration makes no sense, the model fails or the journal cannot be written.
pub fn run(
    model: &LocalModel,
    config: &RulerConfig,
    journal: &mut Journal<RulerOutcome>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ExperimentError> {
    config.check(model.config(), model.tokenizer())?;
    let contenders = config.contenders();
    let answered = journal.rows().iter().map(|row| {
        let contender = Contender {
            policy: row.policy,
            budget: row.asked_budget,
        };
        let depth = row.depth.map(f64::to_bits);
        (contender, row.task, row.length, depth, row.trial)
    });
    let answered = answered.collect::<HashSet<_>>();
    let is_open = |contender: Contender, trial: Trial| {
        let depth = trial.depth.map(|index| config.depth(index).to_bits());
        !answered.contains(&(contender, trial.task, trial.length, depth, trial.trial))
    };

    let (tasks, lengths) = (config.tasks(), config.lengths());
    let prompts = |task: &RulerTask| config.trials(*task, 0).count();
    let prompts = tasks.iter().map(prompts).sum::<usize>();
    let total = lengths.len() * prompts * contenders.len();
    for length in lengths {
        let mut session = None;
        for trial in tasks.iter().flat_map(|&task| config.trials(task, length)) {
            let open = contenders.iter().copied();
            let open = open.filter(|&contender| is_open(contender, trial));
            let open = open.collect::<Vec<_>>();
            if open.is_empty() {
                continue;
            }
            let session = match &mut session {
                Some(session) => session,
                None => session.insert(session_of(model, length, config.page_size)?),
            };
            let done = journal.rows().len();
            let prompt = config.prompt(require_tokenizer(model.tokenizer())?, trial)?;
            let prefilled = &prompt.ids[..prompt.prefill];
            session.truncate(0)?;
            session.prefill(prefilled, config.prefill_chunk, &mut |tokens| {
                progress(Progress {
                    done,
                    total,
                    prefilled: Some((tokens, prefilled.len())),
                });
            })?;
            for contender in open {
                journal.push(config.outcome(model, session, &prompt, trial, contender)?)?;
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

/// The mean score of each policy and budget in each task and length, in this order.
pub fn rows(config: &RulerConfig, outcomes: &[RulerOutcome]) -> Vec<RulerRow> {
    let mut rows = Vec::new();
    for contender in config.contenders() {
        for task in config.tasks() {
            for length in config.lengths() {
                let answers = outcomes.iter().filter(|outcome| {
                    (outcome.policy, outcome.asked_budget) == (contender.policy, contender.budget)
                        && (outcome.task, outcome.length) == (task, length)
                });
                let trials = answers.clone().count();
                let sum = answers.map(|outcome| outcome.score).sum::<f64>();
                rows.push(RulerRow {
                    policy: contender.policy,
                    task,
                    length,
                    budget: contender.tokens(length, config.page_size),
                    asked_budget: contender.budget,
                    trials,
                    score: sum / trials.max(1) as f64,
                });
            }
        }
    }
    rows
}
