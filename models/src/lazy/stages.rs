use core::ops::Range;
use std::collections::HashSet;

use quest_burn::{
    FixedPoint,
    cache::{PagedKvCache, PagedKvCacheConfig},
    policy::{LazyPrefillConfig, PrefillConfig, PrefillConfigError},
};

use super::left::Left;
use crate::{config::ModelConfig, generation::GenerateError, local::LocalModel};

/// What a session has beside the cache of its first stage where tokens of prompts leave.
#[derive(Debug)]
pub(crate) struct LaterStages {
    pub(super) config: LazyPrefillConfig,
    pub(super) stages: Vec<Stage>,
}

/// Layers that compute the same tokens.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) layers: Range<usize>,
    /// Share of the tokens of the stage before that leave before this one.
    pub(super) rate: FixedPoint,
    pub(super) cache: PagedKvCache,
    /// Positions in the text of the tokens in the cache, in the order of their places.
    pub(super) positions: Vec<usize>,
    /// What each was computed for: its own position, or that of the decoded token that it came back for.
    pub(super) computed_for: Vec<usize>,
    /// Tokens that left before this stage, where they may come back.
    pub(super) left: Left,
}

/// Refuses prompts that leave tokens behind in models that cannot do without them.
///
/// # Errors
///
/// When the model has windows, or too few layers, or others than those after which tokens are to leave.
pub(crate) fn check(
    prefill: &PrefillConfig,
    config: &ModelConfig,
) -> Result<(), PrefillConfigError> {
    let Some(lazy) = prefill.lazy() else {
        return Ok(());
    };
    lazy.validate()?;
    lazy.later_stages(config.n_layers)?;
    match &config.blocks.windows {
        Some(windows) => Err(PrefillConfigError::LazyWindows(windows.tokens)),
        None => Ok(()),
    }
}

impl LaterStages {
    /// The stages of a model, whose caches are like `cache` but grow as they are filled; none where no token leaves.
    pub(crate) fn of(
        model: &LocalModel,
        cache: &PagedKvCacheConfig,
    ) -> Result<Option<Self>, GenerateError> {
        check(model.prefill(), model.config())?;
        let Some(config) = model.prefill().lazy() else {
            return Ok(None);
        };
        let stages = config.later_stages(model.config().n_layers)?.into_iter();
        let stages = stages.map(|stage| {
            let mut cache = cache.clone().for_layers(stage.layers.len());
            cache.n_pages = 1;
            cache.max_pages_per_sequence = None;
            let cache = cache.init(&model.device(), model.dtype())?;
            Ok(Stage {
                cache: cache.with_first_layer(stage.layers.start),
                layers: stage.layers,
                rate: stage.rate,
                positions: Vec::new(),
                computed_for: Vec::new(),
                left: Left::default(),
            })
        });
        Ok(Some(Self {
            config: config.clone(),
            stages: stages.collect::<Result<_, GenerateError>>()?,
        }))
    }

    /// Layers of the first stage.
    pub(crate) fn first(&self) -> Range<usize> {
        0..self.stages[0].layers.start
    }

    /// The layers of each stage, and the positions of the tokens that they hold.
    pub(crate) fn held(&self) -> impl Iterator<Item = (Range<usize>, &[usize])> {
        let stages = self.stages.iter();
        stages.map(|stage| (stage.layers.clone(), &stage.positions[..]))
    }

    /// Bytes of the caches, and of hidden states that are kept for tokens that left.
    pub(crate) fn bytes(&self) -> u64 {
        let stages = self.stages.iter();
        stages
            .map(|stage| stage.cache.bytes() + stage.left.bytes())
            .sum()
    }

    /// Goes back to the tokens before a position of the text, and to what had come back for them.
    pub(crate) fn truncate(&mut self, length: usize) -> Result<(), GenerateError> {
        let mut before: HashSet<usize> = (0..length).collect();
        for stage in &mut self.stages {
            let mut places = stage.computed_for.iter();
            if let Some(place) = places.position(|&position| position >= length) {
                // Shorter where a pass has failed.
                let held = stage.cache.lengths()[0];
                stage.cache.truncate(0, place.min(held))?;
                stage.positions.truncate(place);
                stage.computed_for.truncate(place);
            }
            // A token that is not in the stage before is computed anew there before it can leave again.
            stage.left.keep(&before);
            before = stage.positions.iter().copied().collect();
        }
        Ok(())
    }

    /// Stages of their own that hold the same.
    pub(crate) fn fork(&self) -> Self {
        let stages = self.stages.iter().map(|stage| Stage {
            layers: stage.layers.clone(),
            rate: stage.rate,
            cache: stage.cache.fork(),
            positions: stage.positions.clone(),
            computed_for: stage.computed_for.clone(),
            left: stage.left.clone(),
        });
        Self {
            config: self.config.clone(),
            stages: stages.collect(),
        }
    }

    /// Notes how uncertain the model is after the newest token, for policies that listen.
    pub(crate) fn note_entropy(&mut self, entropy: f32) -> Result<(), GenerateError> {
        for stage in &mut self.stages {
            stage.cache.note_entropy(0, entropy)?;
        }
        Ok(())
    }
}

impl Stage {
    /// Makes room for more tokens.
    pub(super) fn make_room(&mut self, tokens: usize) {
        let n_pages = self.cache.config().n_pages;
        let length = self.positions.len() + tokens;
        let needed = length.div_ceil(self.cache.page_size());
        if needed > n_pages {
            // By half at least, so that a growing conversation is copied seldom.
            self.cache.grow(needed.max(n_pages + n_pages / 2));
        }
    }
}
