use std::time::Instant;

use burn::tensor::Tensor;

use super::{ChunkDone, GenerateError, GenerationConfig, Timings, forward::Forward};
use crate::sampling::{MaskError, Sampler, TokenMask};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// One of the stop ids was chosen, or nothing may follow by the answer's grammar.
    Stop,
    /// As many tokens as were asked for.
    Length,
}

/// An answer on its way: what was asked for, and how far it is. What computes its tokens is left to a
/// generator.
pub(crate) struct Answer<'a> {
    pub config: GenerationConfig,
    pub sampler: Sampler,
    pub timings: Timings,
    prompt: Vec<u32>,
    on_prefill: Option<Box<dyn FnMut(usize) + 'a>>,
    /// Whether the prompt is to be given up.
    is_stopped: Option<Box<dyn FnMut() -> bool + 'a>>,
    /// Which tokens may come.
    mask: Option<Box<dyn TokenMask + 'a>>,
    state: State,
}

enum State {
    /// More tokens are asked for.
    Open(Due),
    Finished(Finish),
    Failed,
}

/// What gives the next token.
#[derive(Clone, Copy)]
pub(crate) enum Due {
    /// The prompt.
    Prefill,
    /// The newest token, which is not in the cache yet.
    Decode { newest: u32, new_tokens: usize },
}

impl<'a> Answer<'a> {
    /// An answer to `prompt`, of which nothing is computed.
    pub(crate) fn new(
        forward: &Forward<'_>,
        prompt: &[u32],
        config: GenerationConfig,
    ) -> Result<Self, GenerateError> {
        config.check(prompt, forward.vocab_size())?;
        forward.check_room(prompt.len(), config.max_new_tokens, config.max_context)?;
        let mut sampler = config.sampling.init()?;
        sampler.observe(prompt);
        Ok(Self {
            state: match config.max_new_tokens {
                0 => State::Finished(Finish::Length),
                _ => State::Open(Due::Prefill),
            },
            config,
            sampler,
            prompt: prompt.to_vec(),
            on_prefill: None,
            is_stopped: None,
            mask: None,
            timings: Timings::default(),
        })
    }

    /// Calls `progress` after each chunk of the prompt with the number of tokens done.
    pub(crate) fn on_prefill(&mut self, progress: impl FnMut(usize) + 'a) {
        self.on_prefill = Some(Box::new(progress));
    }

    /// Gives the prompt up when `is_stopped` says so after a chunk of it.
    pub(crate) fn stop_prefill_when(&mut self, is_stopped: impl FnMut() -> bool + 'a) {
        self.is_stopped = Some(Box::new(is_stopped));
    }

    /// Chooses tokens that a mask allows.
    pub(crate) fn set_mask(&mut self, mask: impl TokenMask + 'a) {
        self.mask = Some(Box::new(mask));
    }

    /// Whether the token of the highest logit is taken, whatever came before.
    pub(crate) fn is_argmax(&self) -> bool {
        self.sampler.is_argmax() && self.mask.is_none()
    }

    /// Tokens that end it.
    pub(crate) fn stop_ids(&self) -> &[u32] {
        self.config.stop_ids.as_deref().unwrap_or_default()
    }

    /// Why it ended; `None` before the end and after an error.
    pub(crate) fn finish(&self) -> Option<Finish> {
        match self.state {
            State::Finished(finish) => Some(finish),
            State::Open(_) | State::Failed => None,
        }
    }

    /// Runs the prompt through the model: `[1, 1, d_model]` after its last token. After an error the caches hold
    /// the tokens that they held before it; what policies remember of these is forgotten, as after truncating.
    pub(crate) fn prefill(
        &mut self,
        forward: &mut Forward<'_>,
    ) -> Result<Tensor<3>, GenerateError> {
        let (on_prefill, is_stopped) = (&mut self.on_prefill, &mut self.is_stopped);
        let is_watched = on_prefill.is_some() || is_stopped.is_some();
        let mut done = |tokens| {
            if let Some(on_prefill) = on_prefill {
                on_prefill(tokens);
            }
            match is_stopped.as_mut().is_some_and(|is_stopped| is_stopped()) {
                true => Err(GenerateError::Stopped),
                false => Ok(()),
            }
        };
        let done = is_watched.then_some(&mut done as ChunkDone<'_>);
        let before = forward.length();
        let last = forward.prefill(&self.prompt, self.config.prefill_chunk, done);
        if last.is_err() && forward.length() > before {
            // The first error says what happened.
            let back = forward.go_back(before);
            return last.and_then(|last| back.map(|()| last));
        }
        last
    }

    /// Takes note of the time from `start` to the first token.
    pub(crate) fn prefilled(&mut self, start: Instant) {
        self.timings.prefill_tokens = self.prompt.len();
        self.timings.prefill = start.elapsed();
    }

    /// A token by the logits that follow `length` tokens.
    pub(crate) fn sample(&mut self, logits: &[f32], length: usize) -> Result<u32, GenerateError> {
        let sampled = match &mut self.mask {
            None => self.sampler.sample(logits).map_err(MaskError::from),
            Some(mask) => {
                let stop_ids = self.config.stop_ids.as_deref().unwrap_or_default();
                let mut logits = logits.to_vec();
                self.sampler
                    .sample_masked(&mut logits, &mut **mask, stop_ids)
            }
        };
        let id = sampled.map_err(|error| match error {
            MaskError::Sample(source) => GenerateError::Sample { length, source },
            source => GenerateError::Mask { length, source },
        })?;
        self.sampler.observe(&[id]);
        Ok(id)
    }

    /// What gives the next token; `None` at the end and after an error.
    pub(crate) fn due(&self) -> Option<Due> {
        match self.state {
            State::Open(due) => Some(due),
            State::Finished(_) | State::Failed => None,
        }
    }

    /// Takes note of the token that was due.
    pub(crate) fn advance(&mut self, id: &Result<u32, GenerateError>) {
        let State::Open(due) = self.state else {
            return;
        };
        let new_tokens = match due {
            Due::Prefill => 1,
            Due::Decode { new_tokens, .. } => new_tokens + 1,
        };
        let is_complete = self.mask.as_ref().is_some_and(|mask| mask.is_complete());
        self.state = match id {
            Err(_) => State::Failed,
            Ok(id) if self.stop_ids().contains(id) || is_complete => State::Finished(Finish::Stop),
            Ok(_) if new_tokens == self.config.max_new_tokens => State::Finished(Finish::Length),
            &Ok(newest) => State::Open(Due::Decode { newest, new_tokens }),
        };
    }
}
