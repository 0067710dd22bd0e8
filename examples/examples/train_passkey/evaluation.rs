//! The passkey task through the paged cache, and what single layers contribute to it.

mod rows;
mod trials;
mod windows;

use anyhow::ensure;
use burn::tensor::{DType, Device, Tensor};
use quest_burn::{
    QuestConfig,
    cache::{PagedKvCache, PagedKvCacheConfig},
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{config::ModelConfig, model::CausalLm};
use serde::Serialize;

use self::trials::{Trial, columns};
pub(crate) use self::{rows::Row, windows::with_windows};
use crate::corpus::Vocabulary;

/// Tokens of a page.
const PAGE_SIZE: usize = PagedKvCacheConfig::PAGE_SIZE;
/// Tokens of the prompt that go through the model at once.
const PREFILL_CHUNK: usize = 1024;
/// Tokens that the model may use for its answer.
const ANSWER: usize = 10;

/// Sizes of an evaluation.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Passkey {
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Prompts, their depths evenly spaced.
    pub trials: usize,
    /// Prompts that are computed together.
    pub batch: usize,
    /// Last tokens of the prompt that are fed one by one, through the policy.
    pub fed: usize,
    /// Seed of the keys.
    pub seed: u64,
}

impl Passkey {
    /// Reads the prompts densely up to their last tokens, which are then fed through each policy
    /// in turn, as are the tokens of the answer.
    ///
    /// # Errors
    ///
    /// When the prompts are too short, or the device fails.
    pub(crate) fn run(
        &self,
        model: &CausalLm,
        config: &ModelConfig,
        vocabulary: &Vocabulary,
        policies: &[Policy],
        dtype: DType,
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Row>> {
        ensure!(
            (1..self.tokens).contains(&self.fed),
            "tokens fed one by one: expected from 1 to {}, found {}",
            self.tokens - 1,
            self.fed
        );
        let mut results = policies
            .iter()
            .map(|policy| Row::new(&policy.name, self.tokens, policy.budget))
            .collect::<Vec<_>>();
        let device = model.embed_tokens.weight.device();
        for trials in self.trials(vocabulary)?.chunks(self.batch) {
            let capacity = self.tokens + ANSWER;
            let cache = config.cache(PAGE_SIZE, trials.len(), capacity);
            let mut cache = cache.init(&device, dtype)?;
            self.prefill(model, &mut cache, trials, &device)?;
            for (policy, row) in policies.iter().zip(&mut results) {
                let answers = self.answers(model, &mut cache, trials, policy, &device)?;
                for (trial, ids) in trials.iter().zip(answers) {
                    let answer = vocabulary.decode(&ids)?;
                    let is_right = first_integer(&answer) == Some(trial.key.as_str());
                    row.count(trial, is_right, answer);
                }
            }
            progress(results[0].trials);
        }
        Ok(results)
    }

    fn prefill(
        &self,
        model: &CausalLm,
        cache: &mut PagedKvCache,
        trials: &[Trial],
        device: &Device,
    ) -> anyhow::Result<()> {
        let end = self.tokens - self.fed;
        for first in (0..end).step_by(PREFILL_CHUNK) {
            let range = first..end.min(first + PREFILL_CHUNK);
            let ids = columns(trials, range.clone(), device);
            let step = cache.prefill(&vec![range.len(); trials.len()])?;
            model.hidden(ids, cache, &step, &DensePolicy);
        }
        Ok(())
    }

    /// The greedy answers; the cache is as it was afterwards.
    fn answers(
        &self,
        model: &CausalLm,
        cache: &mut PagedKvCache,
        trials: &[Trial],
        policy: &Policy,
        device: &Device,
    ) -> anyhow::Result<Vec<Vec<u32>>> {
        let first = self.tokens - self.fed;
        let mut newest = None;
        let mut new = Vec::new();
        for index in first..self.tokens + ANSWER - 1 {
            let ids = match newest.take() {
                Some(ids) => ids,
                None => columns(trials, index..index + 1, device),
            };
            let step = cache.decode()?;
            let hidden = model.hidden(ids, cache, &step, &*policy.policy);
            if index + 1 >= self.tokens {
                let logits = model.logits(hidden);
                let ids = logits.argmax(2).squeeze_dim::<2>(2);
                new.push(ids.clone());
                newest = Some(ids);
            }
        }
        let ids = Tensor::cat(new, 1).try_into_data()?.convert::<i64>();
        let ids = ids.try_to_vec::<i64>().expect("converted one line above");
        for sequence in 0..trials.len() {
            cache.truncate(sequence, first)?;
        }
        let answers = ids.chunks(ANSWER);
        Ok(answers
            .map(|ids| ids.iter().map(|&id| id as u32).collect())
            .collect())
    }
}

/// A way to choose pages, under a name.
pub(crate) struct Policy {
    name: String,
    budget: Option<usize>,
    policy: Box<dyn PagePolicy>,
}

impl Policy {
    /// Every page.
    pub(crate) fn dense() -> Self {
        Self {
            name: "dense".into(),
            budget: None,
            policy: Box::new(DensePolicy),
        }
    }

    /// Quest with a token budget, the first two layers dense.
    ///
    /// # Errors
    ///
    /// When the budget holds no page.
    pub(crate) fn quest(budget: usize) -> anyhow::Result<Self> {
        let config = QuestConfig::new().with_token_budget(budget);
        Ok(Self {
            name: "quest".into(),
            budget: Some(budget),
            policy: Box::new(config.init()?),
        })
    }
}

fn first_integer(text: &str) -> Option<&str> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let digits = &text[start..];
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    Some(&digits[..end])
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::model::{tiny_model, weights};

    pub(super) fn vocabulary() -> &'static Vocabulary {
        static TRAINED: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::train(700, 1).unwrap());
        &TRAINED
    }

    pub(super) fn passkey() -> Passkey {
        Passkey {
            tokens: 200,
            trials: 3,
            batch: 2,
            fed: 30,
            seed: 1,
        }
    }

    #[test]
    fn a_budget_that_covers_the_prompt_answers_as_dense_attention_does() {
        let vocabulary = vocabulary();
        let config = tiny_model(vocabulary.len());
        let model = weights(&config, 3, &Device::default());
        let policies = [Policy::dense(), Policy::quest(224).unwrap()];
        let mut seen = Vec::new();
        let rows = passkey()
            .run(
                &model,
                &config,
                vocabulary,
                &policies,
                DType::F32,
                &mut |n| seen.push(n),
            )
            .unwrap();
        assert_eq!(seen, [2, 3]);
        assert_eq!((rows[0].trials, rows[1].budget), (3, Some(224)));
        assert_eq!(rows[0].misses, rows[1].misses);
        // Random weights know nothing, so every answer is among the misses and compared.
        assert_eq!(rows[0].misses.len(), 3);
    }

    #[test]
    fn the_answer_is_the_first_integer() {
        assert_eq!(first_integer(" 407. Remember 12"), Some("407"));
        assert_eq!(first_integer("the 9"), Some("9"));
        assert_eq!(first_integer("none"), None);
    }
}
