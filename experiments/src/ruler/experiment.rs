use quest_burn::policy::PolicyKind;
use quest_burn_models::{config::ModelConfig, local::LocalModel, tokenizer::Tokenizer};
use serde::{Deserialize, Serialize};

use super::{Document, Haystack, RulerPrompt, RulerTask, score, task::Material};
use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    questions::{Comparison, Questions, ask_all},
    results::{Journal, round_trip},
    seed,
    session::require_tokenizer,
    unique,
};

/// What is asked, and of whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RulerConfig {
    /// Who is asked, and how.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// The tasks.
    pub tasks: Vec<RulerTask>,
    /// Evenly spaced depths of needles; other tasks have none.
    pub depths: usize,
    /// Prompts for each task, length and depth.
    pub trials: usize,
    /// Tokens of an answer at most; RULER's number for each task where none is given.
    pub answer_tokens: Option<usize>,
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
pub(crate) struct Trial {
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
        let minimums = [
            ("tasks", self.tasks.len()),
            ("depths", self.depths),
            ("trials", self.trials),
            ("answer tokens", self.answer_tokens.unwrap_or(1)),
        ];
        let shared = self.comparison.minimums();
        for (setting, value) in minimums.into_iter().chain(shared) {
            if value == 0 {
                return Err(ExperimentError::setting(setting, "at least 1", value));
            }
        }
        if self.tasks.contains(&RulerTask::Questions) && self.documents.is_empty() {
            let expected = "a file of documents for the task qa";
            return Err(ExperimentError::setting("documents", expected, "none"));
        }
        for &length in &self.comparison.lengths {
            self.comparison.check_length(length, model)?;
            for &task in &self.tasks {
                let trial = self.trials_of(task, length).next().expect("a trial");
                self.prompt(require_tokenizer(tokenizer)?, trial)?;
            }
        }
        Ok(())
    }

    fn answer_tokens_of(&self, task: RulerTask) -> usize {
        self.answer_tokens.unwrap_or(task.answer_tokens())
    }

    fn tasks(&self) -> Vec<RulerTask> {
        unique(self.tasks.iter().copied())
    }

    /// The prompts of a task and length.
    fn trials_of(&self, task: RulerTask, length: usize) -> impl Iterator<Item = Trial> {
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
}

impl Questions for RulerConfig {
    type Trial = Trial;
    type Key = (RulerTask, usize, Option<u64>, usize);
    type Prompt = RulerPrompt;
    type Outcome = RulerOutcome;

    fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    fn trials(&self, length: usize) -> impl Iterator<Item = Trial> {
        let tasks = self.tasks().into_iter();
        tasks.flat_map(move |task| self.trials_of(task, length))
    }

    fn key(&self, trial: Trial) -> Self::Key {
        let depth = trial.depth.map(|index| self.depth(index).to_bits());
        (trial.task, trial.length, depth, trial.trial)
    }

    fn answered(row: &RulerOutcome) -> (Contender, Self::Key) {
        let contender = Contender {
            policy: row.policy,
            budget: row.asked_budget,
        };
        let depth = row.depth.map(f64::to_bits);
        (contender, (row.task, row.length, depth, row.trial))
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
        let answer = self.answer_tokens_of(task);
        let room = length.saturating_sub(answer);
        let sizes = task.sizes(material);
        RulerPrompt::fit(tokenizer, room, sizes, |size| {
            task.text(size, seed, depth, trial.trial, material)
        })
        .map_err(|error| error.of_length(length, answer))
    }

    fn ids(prompt: &RulerPrompt) -> (&[u32], &[u32]) {
        prompt.ids.split_at(prompt.prefill)
    }

    fn answer_tokens(&self, trial: Trial) -> usize {
        self.answer_tokens_of(trial.task)
    }

    fn outcome(
        &self,
        trial: Trial,
        contender: Contender,
        prompt: &RulerPrompt,
        answer: String,
    ) -> RulerOutcome {
        let score = score(&answer, &prompt.expected, trial.task.any_is_enough());
        RulerOutcome {
            policy: contender.policy,
            task: trial.task,
            length: trial.length,
            asked_budget: contender.budget,
            budget: contender.tokens(trial.length, self.comparison.page_size),
            depth: trial.depth.map(|index| self.depth(index)),
            trial: trial.trial,
            prompt_tokens: prompt.ids.len(),
            expected: prompt.expected.clone(),
            answer,
            score: round_trip(score),
        }
    }
}

/// Asks every policy everything that the journal has no answer to yet.
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
    ask_all(model, config, journal, progress)
}

/// The mean score of each policy and budget in each task and length, in this order.
pub fn rows(config: &RulerConfig, outcomes: &[RulerOutcome]) -> Vec<RulerRow> {
    let mut rows = Vec::new();
    for contender in config.comparison.contenders() {
        for task in config.tasks() {
            for length in config.comparison.unique_lengths() {
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
                    budget: contender.tokens(length, config.comparison.page_size),
                    asked_budget: contender.budget,
                    trials,
                    score: sum / trials.max(1) as f64,
                });
            }
        }
    }
    rows
}
