use core::ops::Deref;

use burn::tensor::{Int, Tensor};
use quest_burn::{
    cache::{PagedKvCache, Step},
    decode::{BatchGraph, DecodeError, DecodeGraph, DecodeGraphConfig, DecodeModel, DraftGraph},
    policy::PagePolicy,
};

use crate::model::LanguageModel;

/// A model with the policy that its attention follows, both borrowed or owned.
struct WithPolicy<M, P> {
    model: M,
    policy: P,
}

impl<'a, M, P> DecodeModel for WithPolicy<M, P>
where
    M: Deref<Target = dyn LanguageModel + 'a>,
    P: Deref<Target = dyn PagePolicy + 'a>,
{
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn is_capturable(&self) -> bool {
        self.policy.is_capturable() && self.model.is_capturable()
    }

    fn steps_per_choice(&self) -> usize {
        self.policy.steps_per_choice()
    }

    fn choice_serves(&self, made_at: usize, length: usize, page_size: usize) -> bool {
        self.policy.choice_serves(made_at, length, page_size)
    }

    fn logits(&self, tokens: Tensor<2, Int>, cache: &mut PagedKvCache, step: &Step) -> Tensor<2> {
        let hidden = self.model.hidden(tokens, cache, step, &*self.policy);
        self.model.logits(hidden).flatten(0, 1)
    }
}

/// Decode steps of a model over a batch of sequences, recorded once and replayed where the device
/// can.
///
/// `tokens[i]` is the newest token of sequence `i`, which is not in the cache yet.
///
/// # Errors
///
/// When there is not one token per sequence, or one outside the vocabulary.
pub fn decode_graph<'a>(
    model: &'a dyn LanguageModel,
    cache: &'a mut PagedKvCache,
    policy: &'a dyn PagePolicy,
    tokens: &[u32],
    config: DecodeGraphConfig,
) -> Result<DecodeGraph<'a>, DecodeError> {
    DecodeGraph::new(WithPolicy { model, policy }, cache, tokens, config)
}

/// Steps of a model over one sequence that draft up to `drafts` tokens by a policy, and dense passes that
/// verify them; both are recorded once and replayed where the device can.
///
/// # Errors
///
/// When the cache has several sequences.
pub fn draft_graph<'a>(
    model: &'a dyn LanguageModel,
    cache: &'a mut PagedKvCache,
    policy: &'a dyn PagePolicy,
    drafts: usize,
    config: DecodeGraphConfig,
) -> Result<DraftGraph<'a>, DecodeError> {
    DraftGraph::new(WithPolicy { model, policy }, cache, drafts, config)
}

/// The decode step of a model over up to `sequences` sequences that come and go, of up to `max_pages` pages each,
/// recorded once and replayed; none where it is not recorded. Model and policy are borrowed (`&dyn`) or shared
/// (`Arc<dyn>`).
///
/// # Panics
///
/// As [`BatchGraph::record`].
pub fn batch_graph<'a>(
    model: impl Deref<Target = dyn LanguageModel + 'a> + 'a,
    policy: impl Deref<Target = dyn PagePolicy + 'a> + 'a,
    cache: &mut PagedKvCache,
    sequences: usize,
    max_pages: usize,
) -> Option<BatchGraph<'a>> {
    BatchGraph::record(WithPolicy { model, policy }, cache, sequences, max_pages)
}
