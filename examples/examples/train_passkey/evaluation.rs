//! The passkey task through the paged cache, and what single layers contribute to it.

use anyhow::ensure;
use burn::tensor::{DType, Device, Int, Tensor};
use quest_burn::{
    QuestConfig,
    cache::{PagedKvCache, PagedKvCacheConfig},
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{config::ModelConfig, model::CausalLm};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;

use crate::{
    corpus::{Fact, GRASS, TASK, Vocabulary},
    network::{Sight, logits, rows},
};

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

/// How often a policy found the key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// What the prompts were read with.
    pub policy: String,
    /// Tokens of a prompt.
    pub length: usize,
    /// Tokens that a query reads; all where there is none.
    pub budget: Option<usize>,
    /// Prompts.
    pub trials: usize,
    /// Prompts whose key came out.
    pub correct: usize,
    /// Those where it did not.
    pub misses: Vec<Miss>,
}

/// A key that was not found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Miss {
    /// Where it stood, from 0 to 1.
    pub depth: f64,
    /// The key.
    pub key: String,
    /// What the model said.
    pub answer: String,
}

/// A prompt with its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trial {
    depth: f64,
    key: String,
    prompt: Vec<u32>,
}

impl Passkey {
    /// The prompts.
    ///
    /// # Errors
    ///
    /// When they are too short for the task.
    pub(crate) fn trials(&self, vocabulary: &Vocabulary) -> anyhow::Result<Vec<Trial>> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let last = self.trials.saturating_sub(1).max(1) as f64;
        let depths = (0..self.trials).map(|index| index as f64 / last);
        depths
            .map(|depth| {
                let key = rng.random_range(1..=50_000u32).to_string();
                let prompt = prompt(vocabulary, self.tokens, depth, &key)?;
                Ok(Trial { depth, key, prompt })
            })
            .collect()
    }

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
            .map(|policy| Row {
                policy: policy.name.clone(),
                length: self.tokens,
                budget: policy.budget,
                trials: 0,
                correct: 0,
                misses: Vec::new(),
            })
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
                    row.trials += 1;
                    if first_integer(&answer) == Some(trial.key.as_str()) {
                        row.correct += 1;
                    } else {
                        row.misses.push(Miss {
                            depth: trial.depth,
                            key: trial.key.clone(),
                            answer,
                        });
                    }
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

/// How often the whole answer is the most likely one when layer `i` sees the newest `windows[i]`
/// tokens only, without a cache.
///
/// # Errors
///
/// When the prompts are too short or the device fails.
pub(crate) fn with_windows(
    passkey: &Passkey,
    model: &CausalLm,
    vocabulary: &Vocabulary,
    name: &str,
    windows: &[Option<usize>],
) -> anyhow::Result<Row> {
    let device = model.embed_tokens.weight.device();
    let mut row = Row {
        policy: name.into(),
        length: passkey.tokens,
        budget: None,
        trials: 0,
        correct: 0,
        misses: Vec::new(),
    };
    for trial in passkey.trials(vocabulary)? {
        let answer = vocabulary.encode(&format!(" {}.", trial.key))?;
        // The answer is fed too, but for its end; the prompt gives way at its beginning.
        let ids = [
            &trial.prompt[answer.len() - 1..],
            &answer[..answer.len() - 1],
        ]
        .concat();
        let ids = ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
        let tokens = ids.len();
        let positions = (0..tokens as i32).collect::<Vec<_>>();
        let shape = [1, tokens];
        let sight = Sight::new(windows, tokens, &device);
        let logits = logits(
            model,
            rows(&ids, shape, &device),
            rows(&positions, shape, &device),
            &sight,
        );
        let last = logits.narrow(0, tokens - answer.len(), answer.len());
        let best = last.argmax(1).try_into_data()?.convert::<i64>();
        let best = best.try_to_vec::<i64>().expect("converted one line above");
        let best = best.iter().map(|&id| id as u32).collect::<Vec<_>>();
        row.trials += 1;
        if best == answer {
            row.correct += 1;
        } else {
            row.misses.push(Miss {
                depth: trial.depth,
                key: trial.key,
                answer: vocabulary.decode(&best)?,
            });
        }
    }
    Ok(row)
}

/// A passkey prompt of exactly `tokens` tokens.
fn prompt(
    vocabulary: &Vocabulary,
    tokens: usize,
    depth: f64,
    key: &str,
) -> anyhow::Result<Vec<u32>> {
    let fact = Fact::passkey(key.into());
    let statement = fact
        .statement()
        .iter()
        .map(|around| format!("{} {key}{}", around.before, around.after))
        .collect::<String>();
    let question = fact.question(&mut StdRng::seed_from_u64(0)).before;
    let start = vocabulary.encode(&format!("{TASK}\n"))?;
    let middle = vocabulary.encode(&format!("\n{statement}\n"))?;
    let end = vocabulary.encode(&format!("\n{question}"))?;
    let frame = 1 + start.len() + middle.len() + end.len();
    ensure!(
        frame < tokens,
        "prompt: expected more than {frame} tokens, found {tokens}"
    );
    // The text repeats; only its first sentence does not follow a space.
    let again = vocabulary.encode(&format!(" {}", GRASS.join(" ")))?;
    let mut text = vocabulary.encode(&GRASS.join(" "))?;
    while text.len() < tokens {
        text.extend(&again);
    }
    let room = tokens - frame;
    let before = (room as f64 * depth).round() as usize;
    let mut ids = vec![vocabulary.begin()];
    ids.extend(start);
    ids.extend(&text[..before]);
    ids.extend(middle);
    ids.extend(&text[..room - before]);
    ids.extend(end);
    Ok(ids)
}

/// Some columns of the prompts.
fn columns(trials: &[Trial], range: std::ops::Range<usize>, device: &Device) -> Tensor<2, Int> {
    let shape = [trials.len(), range.len()];
    let ids = trials
        .iter()
        .flat_map(|trial| &trial.prompt[range.clone()])
        .map(|&id| id as i32)
        .collect::<Vec<_>>();
    rows(&ids, shape, device)
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

    fn vocabulary() -> &'static Vocabulary {
        static TRAINED: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::train(700, 1).unwrap());
        &TRAINED
    }

    fn passkey() -> Passkey {
        Passkey {
            tokens: 200,
            trials: 3,
            batch: 2,
            fed: 30,
            seed: 1,
        }
    }

    #[test]
    fn prompts_have_their_length_and_ask_for_the_key_they_hide() {
        let vocabulary = vocabulary();
        let mut places = Vec::new();
        for trial in passkey().trials(vocabulary).unwrap() {
            assert_eq!(trial.prompt.len(), 200);
            let text = vocabulary.decode(&trial.prompt).unwrap();
            let statement = format!(
                "\nThe pass key is {0}. Remember it. {0} is the pass key.\n",
                trial.key
            );
            assert!(text.starts_with(TASK));
            assert!(text.ends_with("\nWhat is the pass key? The pass key is"));
            places.push(text.find(&statement).unwrap());
        }
        assert!(places.is_sorted() && places[0] == TASK.len() + 1);
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
    fn prompts_without_room_for_the_task_are_refused() {
        let passkey = Passkey {
            tokens: 40,
            ..passkey()
        };
        let error = passkey.trials(vocabulary()).unwrap_err().to_string();
        assert!(error.contains("expected more than"), "{error}");
    }

    #[test]
    fn the_answer_is_the_first_integer() {
        assert_eq!(first_integer(" 407. Remember 12"), Some("407"));
        assert_eq!(first_integer("the 9"), Some("9"));
        assert_eq!(first_integer("none"), None);
    }
}
