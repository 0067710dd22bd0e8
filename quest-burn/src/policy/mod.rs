//! Which pages, or which single tokens, a decoded token attends to, and which pages those of a prompt.
//!
//! A policy is a value; dense attention is the policy that lists every page, so that accuracy and
//! speed of all of them are measured on one attention path.
//!
//! A policy is a file of this module and a line in its registry, from which programs take the names
//! of the policies.

mod chess;
mod chess_tree;
mod config;
mod dense;
mod eviction;
#[cfg(test)]
mod fixture;
mod h2o;
mod lists;
mod observer;
mod options;
mod oracle;
mod prefill;
mod prompt;
mod quest;
mod raas;
mod random;
mod recent;
mod registry;
mod reuse;
mod streaming;
mod top_p;
mod tova;
mod uncertainty;
mod window;

use core::fmt::Debug;

use burn::tensor::Tensor;

pub use chess::{ChessOptions, ChessPolicy, Reselect};
pub use config::{NewestPage, QuestConfig, QuestConfigError};
pub use dense::DensePolicy;
pub use h2o::{H2oConfig, H2oPolicy};
pub use observer::{Observation, Observations, ObservedPolicy, Read, TOP_TOKENS};
pub use options::{Given, OptionError, PolicyOption, Share, ShareError};
pub use oracle::{OracleOptions, OraclePolicy};
pub use prefill::{
    LazyPrefillConfig, LazyStage, PositionedPrefill, PrefillConfig, PrefillConfigError,
    QuestPrefill, QuestPrefillConfig,
};
pub use quest::{QuestOptions, QuestPolicy};
pub use raas::{RaasOptions, RaasPolicy, RaasPrompt};
pub use random::{RandomOptions, RandomPolicy, RandomPrompt};
pub use recent::{RecentOptions, RecentPolicy};
pub use registry::{PolicyConfig, PolicyError, PolicyKind, PolicyKindError};
pub use reuse::{ReuseOptions, ReusePolicy};
pub use streaming::{StreamingConfig, StreamingPolicy, WindowPositions};
pub use top_p::{TopPOptions, TopPPolicy};
pub use tova::{TovaConfig, TovaPolicy};
pub use window::WindowPolicy;
pub(crate) use window::{prefill_attention, within};

pub use crate::pages::{
    GroupRule, KeyShift, PageScoring, PageSelection, PageSharing, Pages, PastPages, TokenLists,
};
use crate::{
    cache::{LayerCache, Step},
    ops,
};

/// Chooses what the newest token of each sequence attends to, and what the tokens of a prompt do.
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

    /// Causal attention of the new tokens of a prompt, which are in the cache already; dense unless a policy
    /// says otherwise, as [`QuestPrefill`] does.
    ///
    /// # Shapes
    ///
    /// - query (after RoPE), output: `[batch, n_heads, max_new_tokens, head_dim]`; zeros past the tokens that a
    ///   sequence gains
    fn prefill_attention(
        &self,
        query: Tensor<4>,
        cache: &LayerCache,
        step: &Step,
        scale: f64,
    ) -> Tensor<4> {
        ops::prefill_attention(query, cache, step, scale)
    }

    /// Tokens that a query head reads at most in a layer of `length` tokens, in pages of `page_size`;
    /// none of a policy that does not say.
    fn tokens_read(&self, layer: usize, length: usize, page_size: usize) -> Option<usize> {
        let _ = (layer, length, page_size);
        None
    }

    /// Whether kernels alone do what the policy does in a decode step, from what is on the device,
    /// so that the step can be recorded and replayed ([`crate::decode`]). A policy that looks at
    /// the host's lengths or remembers something from step to step cannot, but for
    /// [choices that serve several steps](Self::steps_per_choice).
    fn is_capturable(&self) -> bool {
        false
    }

    /// Steps that a choice of pages serves at most; 1 of a policy that chooses in each of them.
    ///
    /// One of more is recorded twice, as a step that chooses and as one that reads what was chosen.
    fn steps_per_choice(&self) -> usize {
        1
    }

    /// Whether what was chosen for a sequence when it had `made_at` tokens, in pages of `page_size`, serves one that
    /// has `length` of them now.
    fn choice_serves(&self, made_at: usize, length: usize, page_size: usize) -> bool {
        let _ = (made_at, length, page_size);
        false
    }

    /// Whether the policy gives pages up while an answer lasts, so that a sequence may become longer than the
    /// pool has room for.
    fn frees_pages(&self) -> bool {
        false
    }

    /// The pages that the policy may read again in a layer, by their places in the sequence; none of a policy
    /// that may read any. The others can be freed
    /// ([`PagedKvCache::free_all_but`](crate::cache::PagedKvCache::free_all_but)).
    fn pages_held(&self, cache: &LayerCache, sequence: usize) -> Option<Vec<usize>> {
        let _ = (cache, sequence);
        None
    }

    /// Whether the policy asks how uncertain the model is. Whoever decodes through such a policy, one token
    /// at a time, notes the entropy of each next token's distribution
    /// ([`PagedKvCache::note_entropy`](crate::cache::PagedKvCache::note_entropy)), that after a prompt's last
    /// token among them; the policy finds them in [`Step::entropies`]. Steps of [`crate::decode`] note none.
    fn hears_entropy(&self) -> bool {
        false
    }
}
