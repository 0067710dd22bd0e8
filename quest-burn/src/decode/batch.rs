use core::fmt;

use burn::tensor::Tensor;

use super::{DecodeError, DecodeModel, graph::check_tokens};
#[cfg(feature = "cube")]
use super::{DecodeGraph, captured_batch::CapturedBatch};
use crate::cache::{AssignedPages, PagedKvCache};

/// The decode step of a model over sequences that come and go, recorded once and replayed for up to so many of
/// them as it was recorded for.
///
/// The caller counts the pages of the sequences
/// ([`PagedKvCache::assigned_step`]), and names them before each step: their tokens, pages and lengths are
/// written to where the recording reads them. Rows beyond them are padding, which writes to no page and chooses
/// no token. Between two steps the cache is the caller's: prompts are fed and pages are copied as without a
/// recording.
///
/// While a step is recorded, no other thread may use the device: what it allocates makes the recording void, and
/// on CUDA its own work fails. The recording belongs to the thread that made it. It keeps the memory of the
/// step's results, in whole pages of the device's allocator, until it is dropped.
///
/// ```
/// # use burn::tensor::{DType, Device, Distribution, Int, Tensor};
/// # use quest_burn::cache::{AssignedPages, PagedKvCache, PagedKvCacheConfig, Phase, Step};
/// # use quest_burn::{decode::*, ops, policy::*};
/// # struct Tiny {
/// #     embedding: Tensor<2>,
/// # }
/// # impl DecodeModel for Tiny {
/// #     fn vocab_size(&self) -> usize {
/// #         8
/// #     }
/// #     fn logits(&self, tokens: Tensor<2, Int>, cache: &mut PagedKvCache, step: &Step) -> Tensor<2> {
/// #         let [batch, _] = tokens.dims();
/// #         let x = self.embedding.clone().select(0, tokens.reshape([batch]));
/// #         let x = x.reshape([batch, 1, 1, 8]);
/// #         ops::append(cache.layer_mut(0), x.clone(), x.clone(), step);
/// #         DensePolicy.attention(x.squeeze_dim(2), cache.layer_mut(0), step, 0.35).squeeze_dim(1)
/// #     }
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let device = Device::default();
/// # let model = Tiny {
/// #     embedding: Tensor::random([8, 8], Distribution::Default, &device),
/// # };
/// let mut cache = PagedKvCacheConfig::for_tokens(1, 1, 8, 16, 1, 100).init(&device, DType::F32)?;
/// // Two sequences, the first of which has a token already.
/// let sequences = [(&[0][..], 1), (&[3], 0)].map(|(pages, length)| AssignedPages {
///     pages,
///     length,
///     new_tokens: 1,
/// });
/// match BatchGraph::record(model, &mut cache, 4, 2) {
///     Some(mut graph) => {
///         graph.step(&mut cache, &sequences, &[3, 5])?;
///         assert_eq!(graph.most_probable()?.len(), 2);
///     }
///     // Nothing is recorded on the CPU.
///     None => assert!(cache.assigned_step(Phase::Decode, &sequences).is_ok()),
/// }
/// # Ok(())
/// # }
/// ```
pub struct BatchGraph<'a> {
    captured: CapturedBatch<'a>,
    sequences: usize,
    max_pages: usize,
    /// Sequences of the last step.
    stepped: usize,
}

impl<'a> BatchGraph<'a> {
    /// Records the step of `model` over up to `sequences` sequences of up to `max_pages` pages each.
    ///
    /// None where the step is not recorded: the model cannot be, its policy's choices serve several steps, the
    /// kernels do not run over this cache ([`DecodeGraph::records`](super::DecodeGraph::records)), or the device has
    /// made no recording.
    ///
    /// # Panics
    ///
    /// When a size is 0, something else holds the tensors of the cache, or the model does not fit it.
    pub fn record(
        model: impl DecodeModel + 'a,
        cache: &mut PagedKvCache,
        sequences: usize,
        max_pages: usize,
    ) -> Option<Self> {
        for (what, size) in [("sequences", sequences), ("pages", max_pages)] {
            assert!(
                size > 0,
                "recorded step: expected at least 1 of {what}, found 0"
            );
        }
        #[cfg(feature = "cube")]
        if model.is_capturable() && model.steps_per_choice() == 1 && DecodeGraph::records(cache) {
            let model = Box::new(model);
            let captured = CapturedBatch::record(model, cache, sequences, max_pages)?;
            return Some(Self {
                captured,
                sequences,
                max_pages,
                stepped: 0,
            });
        }
        let _ = (model, cache);
        None
    }

    /// Queues a step: feeds `tokens[i]` to sequence `i`, which gains that token.
    ///
    /// # Errors
    ///
    /// When [`assigned_step`](PagedKvCache::assigned_step) refuses the sequences, one of them gains more than a
    /// token, there are more of them or of the pages of one than were recorded for, there is not one token per
    /// sequence, or one that the model does not know, or the cache is not the one whose step was recorded, with
    /// the memory that it had. Nothing is queued then.
    ///
    /// # Panics
    ///
    /// When the device fails.
    pub fn step(
        &mut self,
        cache: &mut PagedKvCache,
        sequences: &[AssignedPages<'_>],
        tokens: &[u32],
    ) -> Result<(), DecodeError> {
        self.check(cache, sequences, tokens)?;
        self.captured
            .replay(cache, self.sequences, sequences, tokens);
        self.stepped = sequences.len();
        Ok(())
    }

    fn check(
        &self,
        cache: &PagedKvCache,
        sequences: &[AssignedPages<'_>],
        tokens: &[u32],
    ) -> Result<(), DecodeError> {
        if !self.captured.is_of(cache) {
            return Err(DecodeError::OtherCache);
        }
        if sequences.len() > self.sequences {
            return Err(DecodeError::Batch {
                most: self.sequences,
                found: sequences.len(),
            });
        }
        check_tokens(tokens, sequences.len(), self.captured.vocab_size())?;
        cache.check_assigned(sequences)?;
        for (sequence, assigned) in sequences.iter().enumerate() {
            if assigned.new_tokens != 1 {
                return Err(DecodeError::NewTokens {
                    sequence,
                    found: assigned.new_tokens,
                });
            }
            let pages = assigned.held(cache.page_size()).len();
            if pages > self.max_pages {
                return Err(DecodeError::Pages {
                    sequence,
                    most: self.max_pages,
                    found: pages,
                });
            }
        }
        Ok(())
    }

    /// The most probable token after each sequence of the last step, for which the host waits: the lower id of
    /// equals, and none where the logits have no answer, as one is NaN or infinite or all are negative infinity.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn most_probable(&self) -> Result<Vec<Option<u32>>, DecodeError> {
        Ok(self.captured.most_probable(self.stepped)?)
    }

    /// Logits after each sequence of the last step, `[sequences, vocab_size]`; none before the first one. The next
    /// step overwrites them.
    pub fn logits(&self) -> Option<Tensor<2>> {
        let logits = self.captured.logits();
        match self.stepped {
            0 => None,
            n if n == self.sequences => Some(logits),
            n => Some(logits.slice([0..n])),
        }
    }

    /// Sequences that a step has at most.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Pages that a sequence has at most, with that of its new token.
    pub fn max_pages(&self) -> usize {
        self.max_pages
    }
}

impl fmt::Debug for BatchGraph<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchGraph")
            .field("sequences", &self.sequences)
            .field("max_pages", &self.max_pages)
            .finish()
    }
}

/// Nothing is recorded without kernels.
#[cfg(not(feature = "cube"))]
use unrecorded::CapturedBatch;

#[cfg(not(feature = "cube"))]
mod unrecorded {
    use core::{convert::Infallible, marker::PhantomData};

    use burn::tensor::{ExecutionError, Tensor};

    use crate::cache::{AssignedPages, PagedKvCache};

    /// There is none.
    #[allow(dead_code, reason = "it cannot be constructed")]
    pub(super) struct CapturedBatch<'a> {
        none: Infallible,
        model: PhantomData<&'a ()>,
    }

    impl CapturedBatch<'_> {
        pub(super) fn is_of(&self, _: &PagedKvCache) -> bool {
            match self.none {}
        }

        pub(super) fn vocab_size(&self) -> usize {
            match self.none {}
        }

        pub(super) fn replay(
            &mut self,
            _: &mut PagedKvCache,
            _: usize,
            _: &[AssignedPages<'_>],
            _: &[u32],
        ) {
            match self.none {}
        }

        pub(super) fn logits(&self) -> Tensor<2> {
            match self.none {}
        }

        pub(super) fn most_probable(&self, _: usize) -> Result<Vec<Option<u32>>, ExecutionError> {
            match self.none {}
        }
    }
}
