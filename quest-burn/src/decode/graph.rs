use core::fmt;

use burn::tensor::{ExecutionError, Int, Tensor};

#[cfg(feature = "cube")]
use super::captured;
use super::{DecodeError, DecodeGraphConfig, run::Run, uncaptured::Uncaptured};
use crate::cache::{PagedKvCache, Step};

/// A model whose decode step can be recorded.
///
/// The step may not depend on anything that the host changes between steps but the host's fields
/// of the [`Step`], which are those of the recording when it is replayed.
pub trait DecodeModel {
    /// Number of tokens that the model knows.
    fn vocab_size(&self) -> usize;

    /// Whether the step can be recorded; otherwise it runs anew each time.
    fn is_capturable(&self) -> bool {
        true
    }

    /// Steps that a choice of pages serves at most, as
    /// [`PagePolicy::steps_per_choice`](crate::policy::PagePolicy::steps_per_choice) says of the policy.
    fn steps_per_choice(&self) -> usize {
        1
    }

    /// Whether a choice of pages serves a sequence that has grown, as
    /// [`PagePolicy::choice_serves`](crate::policy::PagePolicy::choice_serves) says of the policy.
    fn choice_serves(&self, made_at: usize, length: usize, page_size: usize) -> bool {
        let _ = (made_at, length, page_size);
        false
    }

    /// Logits after each new token; keys and values of the new tokens are appended to the cache. A
    /// decode step has one new token of each sequence; a [`DraftGraph`](super::DraftGraph) also passes
    /// several of one sequence, as a prompt.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, new_tokens]`
    /// - output: `[batch * new_tokens, vocab_size]`
    fn logits(&self, tokens: Tensor<2, Int>, cache: &mut PagedKvCache, step: &Step) -> Tensor<2>;
}

/// The decode step of a model over a batch of sequences, recorded once and replayed.
///
/// Each step feeds the newest token of every active sequence and chooses the most probable next
/// one on the device. A caller that chooses otherwise reads the [`logits`](Self::logits) and
/// [feeds](Self::feed) its own.
///
/// While a step is recorded, which the first one is and others where its pages run out, no other
/// thread may use the device: what it allocates makes the recording void, and on CUDA its own work
/// fails.
///
/// The cache is borrowed as long as the graph lives, and its lengths are then those of the device.
/// Pages for the tokens of a recording are taken ahead; those that were not used come back when
/// the graph is dropped.
///
/// ```
/// # use burn::tensor::{DType, Device, Distribution, Int, Tensor};
/// # use quest_burn::cache::{PagedKvCache, PagedKvCacheConfig, Step};
/// # use quest_burn::{decode::*, ops, policy::*};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// /// One head of eight channels, and as many tokens.
/// struct Tiny {
///     embedding: Tensor<2>,
/// }
///
/// impl DecodeModel for Tiny {
///     fn vocab_size(&self) -> usize {
///         8
///     }
///
///     fn logits(&self, tokens: Tensor<2, Int>, cache: &mut PagedKvCache, step: &Step) -> Tensor<2> {
///         let [batch, _] = tokens.dims();
///         let x = self.embedding.clone().select(0, tokens.reshape([batch]));
///         let x = x.reshape([batch, 1, 1, 8]);
///         ops::append(cache.layer_mut(0), x.clone(), x.clone(), step);
///         DensePolicy.attention(x.squeeze_dim(2), cache.layer_mut(0), step, 0.35).squeeze_dim(1)
///     }
/// }
///
/// let device = Device::default();
/// let model = Tiny {
///     embedding: Tensor::random([8, 8], Distribution::Default, &device),
/// };
/// let mut cache = PagedKvCacheConfig::for_tokens(1, 1, 8, 16, 2, 100).init(&device, DType::F32)?;
/// let mut graph = DecodeGraph::new(model, &mut cache, &[3, 5], DecodeGraphConfig::new())?;
/// let first = graph.step()?;
/// let more = graph.run(10)?;
/// assert_eq!((first.len(), more[1].len()), (2, 10));
/// drop(graph);
/// assert_eq!(cache.lengths(), [11, 11]);
/// # Ok(())
/// # }
/// ```
pub struct DecodeGraph<'a> {
    run: Box<dyn Run + 'a>,
    has_stepped: bool,
}

impl<'a> DecodeGraph<'a> {
    /// The steps of `model` after what the cache holds; `tokens[i]` is the newest token of sequence
    /// `i`, which is not in the cache yet.
    ///
    /// Nothing is computed before the first step, which records, or [`prepare`](Self::prepare).
    ///
    /// # Errors
    ///
    /// When there is not one token per sequence, or one that the model does not know.
    pub fn new(
        model: impl DecodeModel + 'a,
        cache: &'a mut PagedKvCache,
        tokens: &[u32],
        config: DecodeGraphConfig,
    ) -> Result<Self, DecodeError> {
        check_tokens(tokens, cache.batch(), model.vocab_size())?;
        let model = Box::new(model);
        #[cfg(feature = "cube")]
        if config.capture && model.is_capturable() && captured::records(cache) {
            let per_recording = config.tokens_per_recording;
            let run = captured::Captured::new(model, cache, tokens, per_recording);
            return Ok(Self::of(run));
        }
        let _ = config;
        Ok(Self::of(Uncaptured::new(model, cache, tokens.to_vec())))
    }

    fn of(run: impl Run + 'a) -> Self {
        Self {
            run: Box::new(run),
            has_stepped: false,
        }
    }

    /// Whether steps over this cache are recorded: where the kernels run.
    pub fn records(cache: &PagedKvCache) -> bool {
        #[cfg(feature = "cube")]
        let records = captured::records(cache);
        #[cfg(not(feature = "cube"))]
        let records = {
            let _ = cache;
            false
        };
        records
    }

    /// Records the step where the device can, instead of leaving that to the first step. The newest
    /// tokens need not be known yet: they can be [fed](Self::feed) afterwards.
    ///
    /// What a device still has to do goes on meanwhile, so that kernels of the step are compiled
    /// while it works on a prompt.
    ///
    /// # Errors
    ///
    /// When a sequence or the pool is full.
    pub fn prepare(&mut self) -> Result<(), DecodeError> {
        self.run.prepare()
    }

    /// Feeds the newest token of every active sequence. On a device that replays, the step is only
    /// queued.
    ///
    /// # Errors
    ///
    /// When no sequence is active, or one of them or the pool is full.
    ///
    /// # Panics
    ///
    /// When something else holds the tensors of the cache, or the model does not fit it.
    pub fn advance(&mut self) -> Result<(), DecodeError> {
        self.run.advance()?;
        self.has_stepped = true;
        Ok(())
    }

    /// A step, and the most probable next token of each sequence; a sequence that is not active
    /// keeps its newest.
    ///
    /// # Errors
    ///
    /// As [`advance`](Self::advance), and when a sequence's logits have no answer.
    pub fn step(&mut self) -> Result<Vec<Option<u32>>, DecodeError> {
        let tokens = self.run(1)?;
        Ok(tokens
            .into_iter()
            .map(|tokens| tokens.first().copied())
            .collect())
    }

    /// `n` steps, and the tokens that they chose for each sequence: `n`, or none where it is not
    /// active. On a device that replays, the host waits once per 64 steps.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step). The steps before the one that failed have been taken.
    pub fn run(&mut self, n: usize) -> Result<Vec<Vec<u32>>, DecodeError> {
        let tokens = self.run.run(n)?;
        self.has_stepped |= n > 0;
        Ok(tokens)
    }

    /// Logits of the last step on the host, a row per sequence; none before the first step.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn logits(&self) -> Result<Option<Vec<Vec<f32>>>, DecodeError> {
        let logits = self.run.logits();
        match logits {
            Some(logits) if self.has_stepped => Ok(Some(read_rows(logits)?)),
            _ => Ok(None),
        }
    }

    /// Replaces the newest token of each sequence, which the next step feeds.
    ///
    /// # Errors
    ///
    /// When there is not one token per sequence, or one that the model does not know.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<(), DecodeError> {
        let vocab_size = self.run.vocab_size();
        check_tokens(tokens, self.batch(), vocab_size)?;
        self.run.feed(tokens);
        Ok(())
    }

    /// Ends a sequence: it gains no more tokens and takes no more room.
    ///
    /// # Errors
    ///
    /// When there is no such sequence.
    pub fn stop(&mut self, sequence: usize) -> Result<(), DecodeError> {
        Ok(self.run.stop(sequence)?)
    }

    /// Which sequences gain a token in each step.
    pub fn active(&self) -> &[bool] {
        self.run.active()
    }

    /// Tokens that the cache holds of each sequence.
    pub fn lengths(&self) -> Vec<usize> {
        self.run.lengths()
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.active().len()
    }

    /// Whether the last step was the replay of a recording that the device made, rather than the
    /// launches issued again.
    pub fn is_hardware(&self) -> bool {
        self.run.is_hardware()
    }

    /// How often the step has been recorded.
    pub fn recordings(&self) -> usize {
        self.run.recordings()
    }
}

impl fmt::Debug for DecodeGraph<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodeGraph")
            .field("lengths", &self.lengths())
            .field("active", &self.active())
            .field("is_hardware", &self.is_hardware())
            .field("recordings", &self.recordings())
            .finish()
    }
}

pub(super) fn check_tokens(
    tokens: &[u32],
    batch: usize,
    vocab_size: usize,
) -> Result<(), DecodeError> {
    if tokens.len() != batch {
        return Err(DecodeError::Tokens {
            batch,
            found: tokens.len(),
        });
    }
    match tokens.iter().position(|&id| id as usize >= vocab_size) {
        Some(sequence) => Err(DecodeError::Token {
            token: tokens[sequence],
            sequence,
            vocab_size,
        }),
        None => Ok(()),
    }
}

/// The rows of a tensor on the host.
pub(super) fn read_rows(rows: Tensor<2>) -> Result<Vec<Vec<f32>>, ExecutionError> {
    let [_, n] = rows.dims();
    let values = rows.try_into_data()?.convert::<f32>().try_to_vec::<f32>();
    let values = values.expect("converted to f32 one line above");
    Ok(values.chunks(n).map(<[f32]>::to_vec).collect())
}
