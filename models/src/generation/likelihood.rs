use burn::tensor::Tensor;
use quest_burn::cache::PagedKvCache;

use super::{
    GenerateError, Policies,
    config::check_ids,
    forward::{self, Forward},
};
use crate::model::LanguageModel;

/// How the ids to be scored go through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LikelihoodMode {
    /// All of them as a prompt, `chunk` at a time; scores every id but the first.
    Dense {
        /// Tokens at a time: bounds the memory that the logits take.
        chunk: usize,
    },
    /// The first `prefill` as a prompt, the others one by one through the policy of decoded tokens; scores these
    /// others.
    Decode {
        /// Tokens that are not scored: from 1 to one less than there are.
        prefill: usize,
        /// Tokens of the prompt that go through the model at once, at least 1.
        chunk: usize,
    },
}

impl LikelihoodMode {
    /// Checks that `n` ids can be scored in this mode.
    ///
    /// # Errors
    ///
    /// When there are fewer than two, the chunk is empty, or nothing is left after the prefill.
    pub fn check(self, n: usize) -> Result<(), GenerateError> {
        match self {
            _ if n < 2 => Err(GenerateError::TooShort { found: n }),
            Self::Dense { chunk: 0 } | Self::Decode { chunk: 0, .. } => Err(GenerateError::Chunk),
            Self::Decode { prefill, .. } if prefill == 0 || prefill >= n => {
                Err(GenerateError::Prefill { prefill, found: n })
            }
            _ => Ok(()),
        }
    }
}

/// Negative log-likelihood of each scored id given all ids before it, in nats.
///
/// The mean over a long text is the logarithm of the model's perplexity on it. `progress` is called
/// with the number of scored ids.
///
/// # Errors
///
/// When there are fewer than two ids, or ids that the model does not know, or more than the cache
/// can hold; when the mode does not fit the ids; when a likelihood is not a finite number.
pub fn negative_log_likelihoods<'a>(
    model: &'a dyn LanguageModel,
    cache: &'a mut PagedKvCache,
    policies: impl Into<Policies<'a>>,
    ids: &[u32],
    mode: LikelihoodMode,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f32>, GenerateError> {
    let forward = Forward {
        model,
        cache,
        policies: policies.into(),
        stages: None,
    };
    score(forward, ids, mode, progress)
}

/// The same of a model at work.
pub(crate) fn score(
    mut forward: Forward<'_>,
    ids: &[u32],
    mode: LikelihoodMode,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f32>, GenerateError> {
    mode.check(ids.len())?;
    // The last id is scored, not fed.
    let (fed, scored) = (&ids[..ids.len() - 1], &ids[1..]);
    check_ids(ids, forward.vocab_size())?;
    forward.check_room(fed.len(), 0, None)?;
    let mut scores = match mode {
        LikelihoodMode::Dense { .. } => Scores::new(1, progress),
        LikelihoodMode::Decode { prefill, .. } => Scores::new(prefill, progress),
    };
    match mode {
        LikelihoodMode::Dense { chunk } => {
            for (fed, scored) in fed.chunks(chunk).zip(scored.chunks(chunk)) {
                let hidden = forward.prefill_all(fed)?;
                scores.push(forward.likelihoods(hidden, scored)?)?;
            }
        }
        LikelihoodMode::Decode { prefill, chunk } => {
            let mut hidden = forward.prefill(&ids[..prefill], chunk, None)?;
            for &id in &ids[prefill..ids.len() - 1] {
                scores.push(forward.likelihoods(hidden, &[id])?)?;
                hidden = forward.decode(id)?;
            }
            scores.push(forward.likelihoods(hidden, &ids[ids.len() - 1..])?)?;
        }
    }
    scores.finish()
}

/// Scores on their way from the device, some at a time: waiting for each would leave a GPU idle
/// between tokens.
struct Scores<'a> {
    first: usize,
    waiting: Vec<Tensor<1>>,
    read: Vec<f32>,
    progress: &'a mut dyn FnMut(usize),
}

impl<'a> Scores<'a> {
    const WAITING: usize = 32;

    /// `first` is the index of the first scored id.
    fn new(first: usize, progress: &'a mut dyn FnMut(usize)) -> Self {
        Self {
            first,
            waiting: Vec::new(),
            read: Vec::new(),
            progress,
        }
    }

    fn push(&mut self, scores: Tensor<1>) -> Result<(), GenerateError> {
        let is_chunk = scores.dims()[0] > 1;
        self.waiting.push(scores);
        if is_chunk || self.waiting.len() == Self::WAITING {
            self.read()?;
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), GenerateError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let scores = Tensor::cat(std::mem::take(&mut self.waiting), 0);
        for value in forward::read(scores)? {
            if !value.is_finite() {
                let index = self.first + self.read.len();
                return Err(GenerateError::Likelihood { index, value });
            }
            self.read.push(value);
        }
        (self.progress)(self.read.len());
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<f32>, GenerateError> {
        self.read()?;
        Ok(self.read)
    }
}
