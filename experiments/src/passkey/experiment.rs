use quest_burn::policy::PolicyKind;
use quest_burn_models::{config::ModelConfig, local::LocalModel, tokenizer::Tokenizer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::{
    Passkey, PasskeyPrompt, is_correct,
    owners::{self, owners},
};
use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    questions::{Comparison, Questions, ask_all},
    results::Journal,
    seed,
    session::require_tokenizer,
};

/// Which passkeys are asked for, and of whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PasskeyConfig {
    /// Who is asked, and how.
    #[serde(flatten)]
    pub comparison: Comparison,
    /// Number of evenly spaced depths: 3 are a third of the filler, two thirds, and its end.
    pub depths: usize,
    /// Passkeys for each length and depth.
    pub trials: usize,
    /// Numbers that a text hides; the owner of the one that is asked for is named where there are
    /// several.
    pub keys: usize,
    /// Characters at the end of the prompt that are fed token by token.
    pub tail: usize,
    /// Tokens of an answer at most.
    pub answer_tokens: usize,
    /// Seed of the passkeys.
    #[serde(skip)]
    pub seed: u64,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasskeyOutcome {
    /// Who answered.
    pub policy: PolicyKind,
    /// Tokens of prompt and answer together.
    pub length: usize,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
    /// The budget in tokens.
    pub budget: usize,
    /// Share of the filler that lies before the passkey.
    pub depth: f64,
    /// Which of the trials at this depth, from 0.
    pub trial: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The number that was hidden.
    pub passkey: u32,
    /// The answer, as text.
    pub answer: String,
    /// Whether its first number is the passkey.
    pub correct: bool,
}

/// Answers of one policy at one depth, counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasskeyRow {
    /// Who answered.
    pub policy: PolicyKind,
    /// Tokens of prompt and answer together.
    pub length: usize,
    /// The budget in tokens.
    pub budget: usize,
    /// Share of the filler that lies before the passkey.
    pub depth: f64,
    /// Answers.
    pub trials: usize,
    /// Answers that were right.
    pub correct: usize,
    /// The budget as it was asked for; none of a policy that reads everything.
    pub asked_budget: Option<Budget>,
}

/// A prompt, before it is made.
#[derive(Clone, Copy)]
pub(crate) struct Trial {
    length: usize,
    depth: usize,
    trial: usize,
}

impl PasskeyConfig {
    /// Checks what can be known before the model's weights are there.
    ///
    /// # Errors
    ///
    /// When there is nothing to ask or nobody to answer, a length is beyond `max_positions`, or a
    /// policy cannot be made with a budget.
    pub fn check(
        &self,
        model: &ModelConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), ExperimentError> {
        let minimums = [
            ("depths", self.depths),
            ("trials", self.trials),
            ("keys", self.keys),
            ("answer tokens", self.answer_tokens),
            ("tail", self.tail),
        ];
        let shared = self.comparison.minimums();
        for (setting, value) in minimums.into_iter().chain(shared) {
            if value == 0 {
                return Err(ExperimentError::setting(setting, "at least 1", value));
            }
        }
        if self.keys > owners::MAX {
            let expected = format!("at most {}", owners::MAX);
            return Err(ExperimentError::setting("keys", expected, self.keys));
        }
        for &length in &self.comparison.lengths {
            self.comparison.check_length(length, model)?;
            // The longest passkeys leave the least room for filler.
            let mut keys = self.passkeys(self.trials(length).next().expect("a depth and a trial"));
            keys.iter_mut().for_each(|key| key.number = 50_000);
            let (asked, others) = keys.split_first().expect("a key");
            PasskeyPrompt::among(
                require_tokenizer(tokenizer)?,
                self.room(length),
                1.0,
                asked,
                others,
                self.tail,
            )
            .map_err(|error| error.of_length(length, self.answer_tokens))?;
        }
        Ok(())
    }

    /// Tokens for the prompt.
    fn room(&self, length: usize) -> usize {
        length.saturating_sub(self.answer_tokens)
    }

    /// The share of the filler before the passkey: of 4 depths 1/4, 2/4, 3/4 and 1, as in the
    /// released script. In millionths, which come back from a file as they were.
    fn depth(&self, index: usize) -> f64 {
        let millionths = (index + 1) as f64 / self.depths as f64 * 1e6;
        millionths.round() / 1e6
    }

    /// The passkeys of a text, that which is asked for first: numbers from 1 to 50000 that do not
    /// depend on the other trials.
    fn passkeys(&self, trial: Trial) -> Vec<Passkey> {
        let parts = [trial.length, trial.depth, trial.trial];
        let seed = seed::of_trial(self.seed, parts);
        let mut rng = StdRng::seed_from_u64(seed);
        let number = |rng: &mut StdRng| rng.random_range(1..=50_000);
        if self.keys == 1 {
            return vec![Passkey::only(number(&mut rng))];
        }
        let owners = owners(self.keys, &mut rng).into_iter();
        let keys = owners.map(|owner| Passkey {
            owner: Some(owner),
            number: number(&mut rng),
        });
        keys.collect()
    }
}

impl Questions for PasskeyConfig {
    type Trial = Trial;
    type Key = (usize, u64, usize);
    type Prompt = PasskeyPrompt;
    type Outcome = PasskeyOutcome;

    fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    fn trials(&self, length: usize) -> impl Iterator<Item = Trial> {
        (0..self.depths).flat_map(move |depth| {
            (0..self.trials).map(move |trial| Trial {
                length,
                depth,
                trial,
            })
        })
    }

    fn key(&self, trial: Trial) -> Self::Key {
        let depth = self.depth(trial.depth).to_bits();
        (trial.length, depth, trial.trial)
    }

    fn answered(row: &PasskeyOutcome) -> (Contender, Self::Key) {
        let contender = Contender {
            policy: row.policy,
            budget: row.asked_budget,
        };
        (contender, (row.length, row.depth.to_bits(), row.trial))
    }

    fn prompt(
        &self,
        tokenizer: &Tokenizer,
        trial: Trial,
    ) -> Result<PasskeyPrompt, ExperimentError> {
        let keys = self.passkeys(trial);
        let (asked, others) = keys.split_first().expect("a key");
        PasskeyPrompt::among(
            tokenizer,
            self.room(trial.length),
            self.depth(trial.depth),
            asked,
            others,
            self.tail,
        )
    }

    fn ids(prompt: &PasskeyPrompt) -> (&[u32], &[u32]) {
        prompt.ids.split_at(prompt.prefill)
    }

    fn answer_tokens(&self, _: Trial) -> usize {
        self.answer_tokens
    }

    fn outcome(
        &self,
        trial: Trial,
        contender: Contender,
        prompt: &PasskeyPrompt,
        answer: String,
    ) -> PasskeyOutcome {
        PasskeyOutcome {
            policy: contender.policy,
            length: trial.length,
            asked_budget: contender.budget,
            budget: contender.tokens(trial.length, self.comparison.page_size),
            depth: self.depth(trial.depth),
            trial: trial.trial,
            prompt_tokens: prompt.ids.len(),
            passkey: prompt.passkey,
            correct: is_correct(&answer, prompt.passkey),
            answer,
        }
    }
}

/// Asks every policy for every passkey that the journal has no answer to yet.
///
/// # Errors
///
/// When the configuration makes no sense, the model fails or the journal cannot be written.
pub fn run(
    model: &LocalModel,
    config: &PasskeyConfig,
    journal: &mut Journal<PasskeyOutcome>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ExperimentError> {
    config.check(model.config(), model.tokenizer())?;
    ask_all(model, config, journal, progress)
}

/// Counts the answers of each policy, budget, length and depth, in this order.
pub fn rows(config: &PasskeyConfig, outcomes: &[PasskeyOutcome]) -> Vec<PasskeyRow> {
    let mut rows = Vec::new();
    for contender in config.comparison.contenders() {
        for length in config.comparison.unique_lengths() {
            for depth in (0..config.depths).map(|index| config.depth(index)) {
                let answers = outcomes.iter().filter(|outcome| {
                    (outcome.policy, outcome.asked_budget) == (contender.policy, contender.budget)
                        && (outcome.length, outcome.depth) == (length, depth)
                });
                rows.push(PasskeyRow {
                    policy: contender.policy,
                    length,
                    budget: contender.tokens(length, config.comparison.page_size),
                    depth,
                    trials: answers.clone().count(),
                    correct: answers.filter(|outcome| outcome.correct).count(),
                    asked_budget: contender.budget,
                });
            }
        }
    }
    rows
}
