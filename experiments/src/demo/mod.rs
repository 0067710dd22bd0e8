//! The demonstration: a passkey in a long text, asked for densely and through Quest on the same
//! cache, with what was read and how long it took.

mod picture;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quest_burn::{
    QuestConfig,
    cache::PagedKvCacheConfig,
    policy::{DensePolicy, Observation, ObservedPolicy, PagePolicy, PolicyKind, Read},
};
use quest_burn_models::{
    config::ModelConfig, local::LocalModel, session::Session, tokenizer::Tokenizer,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    ExperimentError, Progress,
    budget::Budget,
    contender::Contender,
    passkey::{PasskeyPrompt, first_number},
    session::{ask, require_tokenizer, session_of},
};

pub use picture::page_map;

/// What is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DemoConfig {
    /// Tokens of prompt and answer together.
    pub length: usize,
    /// What Quest may read.
    pub budget: Budget,
    /// Share of the filler that lies before the passkey.
    pub depth: f64,
    /// Characters at the end of the prompt that are fed token by token.
    pub tail: usize,
    /// Tokens of an answer at most.
    pub answer_tokens: usize,
    /// Tokens that are prefilled at once.
    pub prefill_chunk: usize,
    /// Dense layers and the selection of Quest; its budget is not used.
    pub quest: QuestConfig,
    /// Tokens of a page of the KV cache.
    pub page_size: usize,
    /// Seed of the passkey.
    #[serde(skip)]
    pub seed: u64,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Demo {
    /// The answer of dense attention, as text.
    pub answer_dense: String,
    /// The answer through Quest, as text.
    pub answer_quest: String,
    /// The first number in the dense answer.
    pub number_dense: Option<u64>,
    /// The first number in the answer through Quest.
    pub number_quest: Option<u64>,
    /// The number that was hidden.
    pub passkey: u32,
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Quest's budget in tokens.
    pub budget: usize,
    /// Share of the cache that Quest read for a token of the answer, over all layers: keys and
    /// values of the chosen pages, and the digests, in units of all keys and values.
    pub share_read: f64,
    /// The same over the layers that read chosen pages only.
    pub share_read_sparse_layers: f64,
    /// Milliseconds per decoded token, densely.
    pub ms_per_token_dense: f64,
    /// Milliseconds per decoded token, through Quest.
    pub ms_per_token_quest: f64,
    /// Seconds that the prefill took.
    pub prefill_s: f64,
    /// Pages that hold the passkey.
    pub passkey_pages: Vec<usize>,
    /// Pages of the prompt and the answer.
    pub n_pages: usize,
    /// What was chosen while the answer was decoded.
    pub chosen: Vec<ChosenPages>,
    /// Which token of Quest's answer is the first with a digit, or 0 where none is: the one for
    /// which the passkey has to be read.
    pub retrieving_token: usize,
}

/// The pages that one list of a layer held while the answer was decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenPages {
    /// The layer.
    pub layer: usize,
    /// The list: a KV head, or a query head where each has a list of its own.
    pub head: usize,
    /// For each token of the answer, the pages in the list, ascending; nothing where the layer read
    /// every page.
    pub pages: Option<Vec<Vec<usize>>>,
}

impl DemoConfig {
    /// Checks what can be known before the model's weights are there.
    ///
    /// # Errors
    ///
    /// When the length does not suit the model or the task, or Quest cannot have the budget.
    pub fn check(
        &self,
        model: &ModelConfig,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(), ExperimentError> {
        ExperimentError::check_length("length", self.length, model)?;
        if !(0.0..=1.0).contains(&self.depth) {
            let expected = "a share from 0 to 1";
            return Err(ExperimentError::setting("depth", expected, self.depth));
        }
        for (setting, value) in [("answer tokens", self.answer_tokens), ("tail", self.tail)] {
            if value == 0 {
                return Err(ExperimentError::setting(setting, "at least 1", value));
            }
        }
        self.policy(model)?;
        self.prompt(require_tokenizer(tokenizer)?)?;
        Ok(())
    }

    fn quest(&self) -> Contender {
        Contender {
            policy: PolicyKind::QUEST,
            budget: Some(self.budget),
        }
    }

    fn policy(&self, model: &ModelConfig) -> Result<Box<dyn PagePolicy>, ExperimentError> {
        Ok(self
            .quest()
            .init(&self.quest, &model.rope, self.length, self.page_size)?)
    }

    fn prompt(&self, tokenizer: &Tokenizer) -> Result<PasskeyPrompt, ExperimentError> {
        PasskeyPrompt::fit(
            tokenizer,
            self.length.saturating_sub(self.answer_tokens),
            self.depth,
            StdRng::seed_from_u64(self.seed).random_range(1..=50_000),
            self.tail,
        )
        .map_err(|error| error.of_length(self.length, self.answer_tokens))
    }
}

/// Hides a passkey and asks for it, densely and through Quest.
///
/// `progress` is told about the prefill.
///
/// # Errors
///
/// When the configuration makes no sense or the model fails.
pub fn run(
    model: &LocalModel,
    config: &DemoConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Demo, ExperimentError> {
    config.check(model.config(), model.tokenizer())?;
    let mut prompt = config.prompt(require_tokenizer(model.tokenizer())?)?;
    let page_size = config.page_size;
    // Whole pages, so that no digest is made again each time that the cache goes back to them.
    prompt.prefill = whole_pages(prompt.prefill, page_size).unwrap_or(prompt.prefill);
    let mut session = session_of(model, config.length, page_size)?;
    let prefilled = &prompt.ids[..prompt.prefill];
    let start = Instant::now();
    session.prefill(prefilled, config.prefill_chunk, &mut |tokens| {
        progress(Progress {
            done: 0,
            total: 1,
            prefilled: Some((tokens, prefilled.len())),
        });
    })?;
    let prefill = start.elapsed();

    let dense = answer(config, &mut session, &prompt, Arc::new(DensePolicy))?;
    let policy = config.policy(model.config())?;
    let quest = answer(config, &mut session, &prompt, policy.into())?;
    let observations = observe(config, &mut session, &prompt, &quest.ids)?;

    let (all, sparse) = shares_read(&observations, session.cache().config());
    let mut retrieving_token = 0;
    for (index, &id) in quest.ids.iter().enumerate() {
        let text = require_tokenizer(model.tokenizer())?.decode(&[id])?;
        if text.contains(|c: char| c.is_ascii_digit()) {
            retrieving_token = index;
            break;
        }
    }
    let pages =
        prompt.passkey_tokens.start / page_size..prompt.passkey_tokens.end.div_ceil(page_size);
    Ok(Demo {
        number_dense: first_number(&dense.text),
        number_quest: first_number(&quest.text),
        answer_dense: dense.text,
        answer_quest: quest.text,
        passkey: prompt.passkey,
        tokens: prompt.ids.len(),
        budget: config.quest().tokens(config.length, page_size),
        share_read: all,
        share_read_sparse_layers: sparse,
        ms_per_token_dense: dense.per_token.as_secs_f64() * 1e3,
        ms_per_token_quest: quest.per_token.as_secs_f64() * 1e3,
        prefill_s: prefill.as_secs_f64(),
        passkey_pages: pages.collect(),
        n_pages: config.length.div_ceil(page_size),
        chosen: chosen_pages(&observations),
        retrieving_token,
    })
}

struct Answer {
    ids: Vec<u32>,
    text: String,
    per_token: Duration,
}

fn answer(
    config: &DemoConfig,
    session: &mut Session,
    prompt: &PasskeyPrompt,
    policy: Arc<dyn PagePolicy>,
) -> Result<Answer, ExperimentError> {
    const WARM_UP: usize = 8;
    let tail = &prompt.ids[prompt.prefill..];
    session.set_policy(policy);
    session.truncate(prompt.prefill)?;
    for &id in tail.iter().take(WARM_UP) {
        session.decode(id)?;
    }
    session.truncate(prompt.prefill)?;
    session.sync()?;

    let start = Instant::now();
    let model = session.model().clone();
    let ids = ask(session, tail, config.answer_tokens, model.stop_ids())?;
    // The last token of the answer is not fed.
    let decoded = tail.len() + ids.len() - 1;
    Ok(Answer {
        per_token: start.elapsed() / decoded as u32,
        text: require_tokenizer(model.tokenizer())?.decode(&ids)?,
        ids,
    })
}

/// What Quest reads for each token of its answer.
fn observe(
    config: &DemoConfig,
    session: &mut Session,
    prompt: &PasskeyPrompt,
    answer: &[u32],
) -> Result<Vec<Observation>, ExperimentError> {
    let observed = ObservedPolicy::new(config.policy(session.model().config())?);
    let observations = observed.observations();
    let last = prompt.ids.len() - 1;
    let page_size = config.page_size;
    let kept = whole_pages(last, page_size).unwrap_or(last);
    session.truncate(kept)?;
    for &id in &prompt.ids[kept..last] {
        session.decode(id)?;
    }
    session.set_policy(Arc::new(observed));
    let fed = prompt.ids[last..].iter().chain(&answer[..answer.len() - 1]);
    for &id in fed {
        session.decode(id)?;
    }
    Ok(observations.take())
}

/// As many of some tokens as fill pages, if any do.
fn whole_pages(tokens: usize, page_size: usize) -> Option<usize> {
    let whole = tokens - tokens % page_size;
    (whole > 0).then_some(whole)
}

/// The share of the cache that was read, of all layers and of those that read chosen pages.
fn shares_read(observations: &[Observation], cache: &PagedKvCacheConfig) -> (f64, f64) {
    let [rows, channels] = cache.digest.shape(cache.head_dim);
    // Of the key and the value of a token.
    let digest = (rows * channels) as f64 / (2 * cache.head_dim) as f64;
    let share = |observation: &Observation| {
        let read = observation.tokens_read();
        let tokens = read.iter().sum::<usize>() as f64 / read.len() as f64;
        let digests = match observation.read {
            Read::Pages(_) => digest * observation.length.div_ceil(observation.page_size) as f64,
            _ => 0.0,
        };
        (tokens + digests) / observation.length as f64
    };
    let mean = |shares: Vec<f64>| match shares.len() {
        0 => 1.0,
        n => shares.iter().sum::<f64>() / n as f64,
    };
    let sparse = observations.iter().filter(|o| o.read != Read::All);
    (
        mean(observations.iter().map(share).collect()),
        mean(sparse.map(share).collect()),
    )
}

/// What each list held, step by step.
fn chosen_pages(observations: &[Observation]) -> Vec<ChosenPages> {
    let mut chosen = Vec::<ChosenPages>::new();
    for observation in observations {
        let lists = match &observation.read {
            Read::Pages(lists) => lists.iter().map(Some).collect(),
            _ => vec![None],
        };
        for (head, pages) in lists.into_iter().enumerate() {
            let known = chosen
                .iter_mut()
                .find(|list| (list.layer, list.head) == (observation.layer, head));
            match (known, pages) {
                (Some(list), Some(pages)) => {
                    list.pages.get_or_insert_default().push(pages.clone());
                }
                (Some(_), None) => (),
                (None, pages) => chosen.push(ChosenPages {
                    layer: observation.layer,
                    head,
                    pages: pages.map(|pages| vec![pages.clone()]),
                }),
            }
        }
    }
    chosen.sort_by_key(|list| (list.layer, list.head));
    chosen
}
