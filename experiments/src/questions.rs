//! Experiments in which every policy answers the same prompts.

use std::{collections::HashSet, hash::Hash};

use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_models::{
    config::ModelConfig, local::LocalModel, session::Session, tokenizer::Tokenizer,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    results::Journal,
    session::{ask, require_tokenizer, session_of},
    unique,
};

/// What is compared on the same prompts, and with which settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Tokens of prompt and answer together.
    pub lengths: Vec<usize>,
    /// Token budgets of every policy but the dense one.
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

impl Comparison {
    /// The policies with their budgets.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        Contender::all(&self.policies, &self.budgets)
    }

    /// The lengths, none repeated.
    pub(crate) fn unique_lengths(&self) -> Vec<usize> {
        unique(self.lengths.iter().copied())
    }

    /// Settings of which there has to be one at least, and how many there are.
    pub(crate) fn minimums(&self) -> [(&'static str, usize); 3] {
        let needs_no_budget = self.policies.iter().all(|&p| p == PolicyKind::Dense);
        [
            ("lengths", self.lengths.len()),
            ("policies", self.policies.len()),
            ("budgets", self.budgets.len() + usize::from(needs_no_budget)),
        ]
    }

    /// Checks that the model takes a length, and that every policy can be made for it.
    pub(crate) fn check_length(
        &self,
        length: usize,
        model: &ModelConfig,
    ) -> Result<(), ExperimentError> {
        ExperimentError::check_length("length", length, model)?;
        for contender in self.contenders() {
            contender.init(&self.quest, &model.rope, length, self.page_size)?;
        }
        Ok(())
    }
}

/// What is asked, and how an answer becomes a row of the journal.
pub(crate) trait Questions {
    /// Describes a prompt before it is made.
    type Trial: Copy;
    /// Tells trials apart in a journal.
    type Key: Eq + Hash;
    /// Token ids, and what the answer should be.
    type Prompt;
    /// A row of the journal.
    type Outcome: Serialize + DeserializeOwned;

    /// Who is asked, and how.
    fn comparison(&self) -> &Comparison;

    /// The trials of a length: as many for each.
    fn trials(&self, length: usize) -> impl Iterator<Item = Self::Trial>;

    fn key(&self, trial: Self::Trial) -> Self::Key;

    /// Who answered, and what.
    fn answered(outcome: &Self::Outcome) -> (Contender, Self::Key);

    fn prompt(
        &self,
        tokenizer: &Tokenizer,
        trial: Self::Trial,
    ) -> Result<Self::Prompt, ExperimentError>;

    /// The ids of a prompt: those that are prefilled, and those that are fed one by one.
    fn ids(prompt: &Self::Prompt) -> (&[u32], &[u32]);

    /// Tokens of an answer at most.
    fn answer_tokens(&self, trial: Self::Trial) -> usize;

    fn outcome(
        &self,
        trial: Self::Trial,
        contender: Contender,
        prompt: &Self::Prompt,
        answer: String,
    ) -> Self::Outcome;
}

/// Asks every policy everything that the journal has no answer to yet.
///
/// A prompt is prefilled once for all policies, as the model's prompts are, and each continues from the same
/// cache.
///
/// # Errors
///
/// When a policy or prompt cannot be made, the model fails or the journal cannot be written.
pub(crate) fn ask_all<Q: Questions>(
    model: &LocalModel,
    questions: &Q,
    journal: &mut Journal<Q::Outcome>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ExperimentError> {
    let tokenizer = require_tokenizer(model.tokenizer())?;
    let comparison = questions.comparison();
    let contenders = comparison.contenders();
    let answered = journal.rows().iter().map(Q::answered);
    let answered = answered.collect::<HashSet<_>>();
    let lengths = comparison.unique_lengths();
    let trials = lengths.first().map_or(0, |&n| questions.trials(n).count());
    let total = lengths.len() * trials * contenders.len();
    for length in lengths {
        let mut session = None;
        for trial in questions.trials(length) {
            let open = contenders.iter().copied();
            let open = open.filter(|&who| !answered.contains(&(who, questions.key(trial))));
            let open = open.collect::<Vec<_>>();
            if open.is_empty() {
                continue;
            }
            let session = match &mut session {
                Some(session) => session,
                None => session.insert(session_of(model, length, comparison.page_size)?),
            };
            let done = journal.rows().len();
            let prompt = questions.prompt(tokenizer, trial)?;
            let (prefilled, fed) = Q::ids(&prompt);
            session.truncate(0)?;
            session.prefill(prefilled, comparison.prefill_chunk, &mut |tokens| {
                progress(Progress {
                    done,
                    total,
                    prefilled: Some((tokens, prefilled.len())),
                });
            })?;
            for contender in open {
                let (quest, page_size) = (&comparison.quest, comparison.page_size);
                let policy = contender.init(quest, &model.config().rope, length, page_size)?;
                session.truncate(prefilled.len())?;
                session.set_policy(policy.into());
                let answer = answer(model, session, fed, questions.answer_tokens(trial))?;
                journal.push(questions.outcome(trial, contender, &prompt, answer))?;
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

/// The text that a session continues a prompt with, of which `fed` is not in the cache yet.
fn answer(
    model: &LocalModel,
    session: &mut Session,
    fed: &[u32],
    tokens: usize,
) -> Result<String, ExperimentError> {
    let ids = ask(session, fed, tokens, model.stop_ids())?;
    Ok(require_tokenizer(model.tokenizer())?.decode(&ids)?)
}
