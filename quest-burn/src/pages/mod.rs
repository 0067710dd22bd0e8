//! What a query reads: the inputs by which policies tell operations what to attend to.

mod past;
mod scoring;
mod selection;
mod tokens;
mod window;

use burn::tensor::{Int, Tensor};

pub(crate) use self::tokens::{for_each, one_list};
pub use self::{
    past::PastPages,
    scoring::{GroupRule, GroupRuleError, PageScoring},
    selection::{PageSelection, PageSharing},
    tokens::{KeyShift, TokenLists},
    window::Window,
};

/// A choice of what is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
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
