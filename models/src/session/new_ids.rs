use quest_burn::cache::PagedKvCache;

use crate::{
    generation::{Finish, GenerateError, GenerationConfig, Generator, Policies, Timings},
    lazy::LaterStages,
    model::LanguageModel,
    sampling::TokenMask,
    speculative::{DraftStatistics, LosslessConfig, LosslessGenerator},
};

/// New ids, as the policy gives them or as dense attention verifies them.
#[allow(clippy::large_enum_variant, reason = "one is made per generation")]
pub(super) enum NewIds<'a> {
    Policy(Generator<'a>),
    Lossless(LosslessGenerator<'a>),
}

macro_rules! either {
    ($self:expr, $new:ident => $body:expr) => {
        match $self {
            Self::Policy($new) => $body,
            Self::Lossless($new) => $body,
        }
    };
}

impl<'a> NewIds<'a> {
    pub(super) fn new(
        model: &'a dyn LanguageModel,
        cache: &'a mut PagedKvCache,
        policies: Policies<'a>,
        prompt: &[u32],
        config: GenerationConfig,
        lossless: Option<LosslessConfig>,
    ) -> Result<Self, GenerateError> {
        Ok(match lossless {
            None => Self::Policy(Generator::new(model, cache, policies, prompt, config)?),
            Some(lossless) => Self::Lossless(LosslessGenerator::new(
                model, cache, policies, prompt, config, lossless,
            )?),
        })
    }

    /// With the stages behind the cache's layers, where tokens of prompts leave.
    pub(super) fn with_stages(self, stages: &'a mut LaterStages) -> Result<Self, GenerateError> {
        match self {
            Self::Policy(new) => Ok(Self::Policy(new.with_stages(stages))),
            Self::Lossless(_) => Err(GenerateError::LazyLossless),
        }
    }

    pub(super) fn observe(&mut self, ids: &[u32]) {
        either!(self, new => new.observe(ids));
    }

    pub(super) fn on_prefill(self, progress: Box<dyn FnMut(usize) + 'a>) -> Self {
        match self {
            Self::Policy(new) => Self::Policy(new.on_prefill(progress)),
            Self::Lossless(new) => Self::Lossless(new.on_prefill(progress)),
        }
    }

    pub(super) fn stop_prefill_when(self, is_stopped: Box<dyn FnMut() -> bool + 'a>) -> Self {
        match self {
            Self::Policy(new) => Self::Policy(new.stop_prefill_when(is_stopped)),
            Self::Lossless(new) => Self::Lossless(new.stop_prefill_when(is_stopped)),
        }
    }

    pub(super) fn with_mask(self, mask: impl TokenMask + 'a) -> Result<Self, GenerateError> {
        match self {
            Self::Policy(new) => Ok(Self::Policy(new.with_mask(mask))),
            Self::Lossless(_) => Err(GenerateError::MaskedDrafts),
        }
    }

    pub(super) fn stop_ids(&self) -> &[u32] {
        either!(self, new => new.stop_ids())
    }

    pub(super) fn timings(&self) -> Timings {
        either!(self, new => new.timings())
    }

    pub(super) fn finish(&self) -> Option<Finish> {
        either!(self, new => new.finish())
    }

    pub(super) fn drafts(&self) -> Option<DraftStatistics> {
        match self {
            Self::Policy(_) => None,
            Self::Lossless(new) => Some(new.statistics()),
        }
    }
}

impl Iterator for NewIds<'_> {
    type Item = Result<u32, GenerateError>;

    fn next(&mut self) -> Option<Self::Item> {
        either!(self, new => new.next())
    }
}
