//! Which pages, or which single tokens, a decoded token attends to.
//!
//! A policy is a value; dense attention is the policy that lists every page, so that accuracy and
//! speed of all of them are measured on one attention path.
//!
//! A policy is a file of this module and a line in its registry, from which programs take the names
//! of the policies.

mod chess;
mod chess_tree;
mod dense;
mod eviction;
#[cfg(test)]
mod fixture;
mod h2o;
mod lists;
mod observer;
mod only_layer;
mod options;
mod oracle;
mod prompt;
mod quest;
mod raas;
mod random;
mod recent;
mod registry;
mod reuse;
mod streaming;
mod tokens;
mod top_p;
mod tova;

use core::fmt::Debug;

use burn::tensor::{Int, Tensor};

pub use chess::{ChessOptions, ChessPolicy, Reselect};
pub use dense::DensePolicy;
pub use h2o::{H2oConfig, H2oPolicy};
pub use observer::{Observation, Observations, ObservedPolicy, Read, TOP_TOKENS};
pub use only_layer::OnlyLayer;
pub use options::{OptionError, PolicyOption, Share, ShareError};
pub use oracle::OraclePolicy;
pub use quest::QuestPolicy;
pub use raas::{RaasOptions, RaasPolicy, RaasPrompt};
pub use random::{RandomOptions, RandomPolicy, RandomPrompt};
pub use recent::{RecentOptions, RecentPolicy};
pub use registry::{PolicyConfig, PolicyError, PolicyKind, PolicyKindError};
pub use reuse::{ReuseOptions, ReusePolicy};
pub use streaming::{StreamingConfig, StreamingPolicy, WindowPositions};
pub use tokens::{KeyShift, TokenLists};
pub use top_p::{TopPOptions, TopPPolicy};
pub use tova::{TovaConfig, TovaPolicy};

use crate::{
    QuestConfig,
    cache::{LayerCache, Step},
    ops,
};

/// Chooses what the newest token of each sequence attends to.
pub trait PagePolicy: Debug + Send + Sync {
    /// The pages for one layer of one decode step; the new token is already in the cache.
    ///
    /// `scale` is what the products of query and keys are multiplied by before the softmax.
    ///
    /// # Shapes
    ///
    /// - query (after RoPE): `[batch, n_heads, head_dim]`
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages;

    /// Attention of the newest token of each sequence over the pages that [`select`](Self::select)
    /// chooses. A policy may override it where choosing and attending are faster together.
    ///
    /// # Shapes
    ///
    /// - query (after RoPE), output: `[batch, n_heads, head_dim]`
    fn attention(
        &self,
        query: Tensor<3>,
        cache: &mut LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<3> {
        let pages = self.select(&query, cache, step, scale);
        ops::paged_attention(query, cache, &pages, step, scale)
    }

    /// Tokens that a query head reads at most in a layer of `length` tokens, in pages of `page_size`;
    /// none of a policy that does not say.
    fn tokens_read(&self, layer: usize, length: usize, page_size: usize) -> Option<usize> {
        let _ = (layer, length, page_size);
        None
    }

    /// Whether kernels alone do what the policy does in a decode step, from what is on the device,
    /// so that the step can be recorded and replayed ([`crate::decode`]). A policy that looks at
    /// the host's lengths or remembers something from step to step cannot.
    fn is_capturable(&self) -> bool {
        false
    }
}

/// A choice of what is read.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one is made per layer and step, and not stored"
)]
pub enum Pages {
    /// Every page of every sequence.
    All,
    /// A list of pages per head.
    Listed {
        /// Logical page numbers, ascending without repeats, `[batch, heads, k]` with `heads` the
        /// number of query heads or of KV heads; -1 past a sequence's count.
        ids: Tensor<3, Int>,
        /// Pages that each head of a sequence lists.
        counts: Vec<usize>,
    },
    /// Single tokens, of policies that keep or evict tokens and not pages.
    Tokens(TokenLists),
}

/// How the best pages are chosen by their scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSelection {
    /// Pages to keep, of each sequence that has more.
    pub k: usize,
    /// First pages that are always kept; they count towards `k`.
    pub sink_pages: usize,
    /// Last pages that are always kept, that of the newest token among them; they count towards `k`.
    pub recent_pages: usize,
}

impl PageSelection {
    /// How a layer chooses its pages in a step, unless it reads all of them.
    ///
    /// # Panics
    ///
    /// When the cache's pages are not of the configured size.
    pub(crate) fn of(config: &QuestConfig, cache: &LayerCache, step: &Step) -> Option<Self> {
        assert_eq!(
            config.page_size,
            step.page_size(),
            "page size of the policy and of the KV cache"
        );
        let selection = Self {
            k: config.budget_pages(),
            sink_pages: config.always_sink_pages(),
            recent_pages: config.always_recent_pages(),
        };
        let dense = cache.index() < config.dense_layers || selection.covers(step);
        (!dense).then_some(selection)
    }

    /// Tokens that are read at most of so many.
    pub(crate) fn tokens_read(config: &QuestConfig, layer: usize, length: usize) -> usize {
        match layer < config.dense_layers {
            true => length,
            false => length.min(config.budget_pages() * config.page_size),
        }
    }

    /// Pages that are kept of each sequence.
    pub fn counts(&self, step: &Step) -> Vec<usize> {
        (0..step.batch())
            .map(|sequence| self.k.min(step.pages(sequence).len()))
            .collect()
    }

    /// Whether a page of a sequence with `n_pages` pages is kept whatever its score.
    pub(crate) fn always_keeps(&self, page: usize, n_pages: usize) -> bool {
        page < self.sink_pages || page + self.recent_pages >= n_pages
    }

    /// Whether every page of every sequence is kept.
    pub fn covers(&self, step: &Step) -> bool {
        step.max_pages() <= self.k
    }
}
