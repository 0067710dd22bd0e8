//! The operations of a decode step on a paged KV cache.
//!
//! | operation | what it does |
//! |---|---|
//! | [`append`] | writes the rows of new tokens and folds their keys into the page digests |
//! | [`rotate_append`] | the same from a merged projection, with norms and RoPE |
//! | [`page_scores`] | scores pages by their digests |
//! | [`top_pages`] | the pages with the highest scores |
//! | [`paged_attention`] | attention of one query token over the chosen pages |
//! | [`top_k_attention`] | the three above together |
//! | [`prefill_attention`] | causal attention of many query tokens over all pages |
//! | [`prefill_attention_within`] | the same in a sliding window |
//! | [`positioned_prefill_attention`] | the same over tokens that are not in the order of their positions |
//! | [`sparse_prefill_attention`] | the same over listed pages of the past, and the new tokens |
//! | [`token_attention`], [`token_weights`] | attention of one query token over listed tokens |
//! | [`most_probable`] | the tokens of the highest logits |
//! | [`token_scores`], [`true_page_scores`] | the true products of query and keys |
//!
//! Each has a body in Burn tensor operations that runs on every backend (`reference`). All but
//! those on single tokens, out of order, in windows and with a cap on scores are kernels on CubeCL devices, and
//! native code on the Flex backend, with keys and values whole and in 8 bits. They are tested against these
//! bodies. `Body` is the one place that decides which of them runs.

mod ahead;
mod body;
mod int8;
#[cfg(feature = "cube")]
mod kernel;
mod most_probable;
mod norm;
#[cfg(feature = "cube")]
mod past_table;
mod positioned;
#[doc(hidden)]
pub mod reference;
mod rotate_append;
mod sparse_prefill;
mod tokens;

use burn::tensor::{Int, Tensor, assert_shape};

pub use crate::pages::{
    KeyShift, PageScoring, PageSelection, PageSharing, Pages, PastPages, TokenLists, Window,
};
pub(crate) use body::Body;
pub use most_probable::most_probable;
pub use norm::HeadNorms;
pub use positioned::positioned_prefill_attention;
pub use rotate_append::rotate_append;
pub use sparse_prefill::sparse_prefill_attention;
pub use tokens::{TokenAttention, token_attention, token_scores, token_weights, true_page_scores};

use crate::cache::{LayerCache, Step};
#[cfg(feature = "flex")]
use crate::simd;

/// Writes the keys and values of a step's new tokens into their pages, and folds the keys into
/// the digests, which are packed anew where the cache has them in 8 bits.
///
/// The pools are written in place as long as nothing else holds them.
///
/// # Shapes
///
/// - keys (after RoPE), values: `[batch, n_kv_heads, max_new_tokens, head_dim]`; rows past the
///   tokens that a sequence gains are ignored
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn append(cache: &mut LayerCache, keys: Tensor<4>, values: Tensor<4>, step: &Step) {
    let [_, n_kv_heads, page_size, head_dim] = cache.pool.keys.dims();
    let (batch, tokens) = (step.batch(), step.max_new_tokens());
    assert_shape!(keys, [batch, n_kv_heads, tokens, head_dim]);
    assert_shape!(values, [batch, n_kv_heads, tokens, head_dim]);
    assert_eq!(page_size, step.page_size(), "page size of cache and step");
    let dtype = cache.pool.dtype();
    let (keys, values) = (keys.cast(dtype), values.cast(dtype));
    match Body::of_layer(cache, &keys.device()) {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::append(cache, keys, values, step),
        #[cfg(feature = "flex")]
        Body::Native => {
            simd::append(cache, keys, values, step);
            simd::quantize_digests(cache, step);
        }
        Body::Reference => {
            reference::append(cache, keys, values, step);
            reference::quantize_digests(cache, step);
        }
    }
}

/// Scores of each page by its digest, as [its kind](crate::digest) says, of the digests in 8 bits where the
/// cache has them.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - output: `[batch, n_heads, max_pages]` in f32, or `[batch, n_kv_heads, max_pages]` with the
///   maximum or mean over the query heads of a group when pages are shared per KV head, where
///   `max_pages` is the step's [`Step::max_pages`]. Entries past a sequence's pages are undefined.
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    scoring: impl Into<PageScoring>,
) -> Tensor<3> {
    check_query(&query, cache, step);
    let scoring = scoring.into();
    match Body::of_digests(cache, &query.device()) {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::page_scores(query, cache, step, scoring),
        #[cfg(feature = "flex")]
        Body::Native => simd::page_scores(query, cache, step, scoring),
        Body::Reference => reference::page_scores(query, cache, step, scoring),
    }
}

/// The pages with the highest scores, ascending by page number; ties go to the lower page.
///
/// A sequence that has no more pages than the selection allows gets all of them.
///
/// # Shapes
///
/// - scores: `[batch, heads, max_pages]`, as from [`page_scores`]
pub fn top_pages(scores: Tensor<3>, step: &Step, selection: &PageSelection) -> Pages {
    let [_, heads, _] = scores.dims();
    assert_shape!(scores, [step.batch(), heads, step.max_pages()]);
    match Body::of(&scores.device(), scores.dtype(), 1) {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::top_pages(scores, step, selection),
        #[cfg(feature = "flex")]
        Body::Native => simd::top_pages(scores, step, selection),
        Body::Reference => reference::top_pages(scores, step, selection),
    }
}

/// The lists of [`top_pages`] for several steps: each is `selection.k` pages long, of which the last `coming_pages`
/// are those that its sequence takes next. A sequence of no more than `selection.k` pages lists all of them and
/// those that follow.
///
/// # Shapes
///
/// - scores: `[batch, heads, max_pages]`, as from [`page_scores`]
/// - output: `[batch, heads, selection.k]`
///
/// # Panics
///
/// When all pages of a list are to come.
pub fn top_pages_ahead(
    scores: Tensor<3>,
    step: &Step,
    selection: &PageSelection,
    coming_pages: usize,
) -> Tensor<3, Int> {
    let [_, heads, _] = scores.dims();
    assert_shape!(scores, [step.batch(), heads, step.max_pages()]);
    match Body::of(&scores.device(), scores.dtype(), 1) {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::top_pages_ahead(scores, step, selection, coming_pages),
        #[cfg(feature = "flex")]
        Body::Native => {
            let chosen = ahead::chosen(selection, coming_pages);
            let pages = simd::top_pages(scores, step, &chosen);
            ahead::listed(pages, step, selection, coming_pages)
        }
        Body::Reference => {
            let chosen = ahead::chosen(selection, coming_pages);
            let pages = reference::top_pages(scores, step, &chosen);
            ahead::listed(pages, step, selection, coming_pages)
        }
    }
}

/// [`top_pages_ahead`] of the sequences that are `due`, `[batch]`, in place of their lists in `ids`. Only where
/// kernels run, for steps that are recorded.
#[cfg(feature = "cube")]
pub(crate) fn renew_top_pages(
    scores: Tensor<3>,
    step: &Step,
    selection: (&PageSelection, usize),
    due: Tensor<1, Int>,
    ids: Tensor<3, Int>,
) -> Tensor<3, Int> {
    kernel::renew_top_pages(scores, step, selection, due, ids)
}

/// Attention of each sequence's newest token over the listed pages.
///
/// The softmax runs over the tokens of those pages only; no score outside them is computed. A
/// sequence that gains no token in this step gets zeros. Lists of tokens go to [`token_attention`].
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - output: `[batch, n_heads, head_dim]`
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn paged_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    pages: &Pages,
    step: &Step,
    scale: f64,
) -> Tensor<3> {
    check_query(&query, cache, step);
    if let Pages::Tokens(lists) = pages {
        return token_attention(query, cache, lists, step, scale).output;
    }
    match Body::of_attention(cache, &query.device()) {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::paged_attention(query, cache, pages, step, scale),
        #[cfg(feature = "flex")]
        Body::Native => simd::paged_attention(query, cache, pages, step, scale),
        Body::Reference => reference::paged_attention(query, cache, pages, step, scale),
    }
}

/// Attention of each sequence's newest token over the pages with the highest scores:
/// [`page_scores`], [`top_pages`] and [`paged_attention`] as one operation; where kernels
/// run, three launches but one call of the host.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - output: `[batch, n_heads, head_dim]`
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn top_k_attention(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    selection: &PageSelection,
    scoring: impl Into<PageScoring>,
    scale: f64,
) -> Tensor<3> {
    check_query(&query, cache, step);
    let scoring = scoring.into();
    let device = query.device();
    if cache.soft_cap().is_some()
        || Body::of_layer(cache, &device) != Body::of_digests(cache, &device)
    {
        // Scores and choice are the device's own all the same.
        let scores = page_scores(query.clone(), cache, step, scoring);
        let pages = top_pages(scores, step, selection);
        return paged_attention(query, cache, &pages, step, scale);
    }
    match Body::of_layer(cache, &device) {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::top_k_attention(query, cache, step, selection, scoring, scale),
        #[cfg(feature = "flex")]
        Body::Native => simd::top_k_attention(query, cache, step, selection, scoring, scale),
        Body::Reference => {
            let scores = reference::page_scores(query.clone(), cache, step, scoring);
            let pages = reference::top_pages(scores, step, selection);
            reference::paged_attention(query, cache, &pages, step, scale)
        }
    }
}

/// Causal attention of the new tokens of a step over everything that the cache holds.
///
/// # Shapes
///
/// - query: `[batch, n_heads, max_new_tokens, head_dim]`
/// - output: `[batch, n_heads, max_new_tokens, head_dim]`; zeros past the tokens that a sequence
///   gains
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    check_prefill(&query, cache, step);
    let body = Body::of_attention(cache, &query.device());
    #[cfg(feature = "cube")]
    let body = body.where_kernels(|| kernel::prefills(cache, step.batch() * step.max_new_tokens()));
    match body {
        #[cfg(feature = "cube")]
        Body::Kernels => kernel::prefill_attention(query, cache, step, scale),
        #[cfg(feature = "flex")]
        Body::Native => simd::prefill_attention(query, cache, step, scale),
        Body::Reference => reference::prefill_attention(query, cache, step, scale),
    }
}

/// Whether [`prefill_attention`] of so many new tokens in all is kernels alone on this cache, so that a pass
/// can be recorded.
#[cfg(feature = "cube")]
pub(crate) fn prefills_on_kernels(cache: &LayerCache, tokens: usize) -> bool {
    let device = cache.device();
    Body::of_layer(cache, &device) == Body::Kernels && kernel::prefills(cache, tokens)
}

/// [`prefill_attention`] in which a token sees those of its window; where there is no window, or all of a
/// step is in it, the same. Windows run in tensor operations on every device.
///
/// # Shapes
///
/// As [`prefill_attention`].
///
/// # Panics
///
/// When the shapes do not fit the cache and the step, or the window holds no token.
pub fn prefill_attention_within(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
    window: Option<Window>,
) -> Tensor<4> {
    let is_left = |window: &Window| {
        step.lengths()
            .iter()
            .any(|length| *length > window.tokens())
    };
    match window.filter(is_left) {
        None => prefill_attention(query, cache, step, scale),
        Some(window) => {
            check_prefill(&query, cache, step);
            reference::window_prefill_attention(query, cache, step, scale, window)
        }
    }
}

fn check_prefill(query: &Tensor<4>, cache: &LayerCache, step: &Step) {
    let [_, n_kv_heads, _, head_dim] = cache.pool.keys.dims();
    let [_, n_heads, _, _] = query.dims();
    assert_shape!(
        query,
        [step.batch(), n_heads, step.max_new_tokens(), head_dim]
    );
    check_groups(n_heads, n_kv_heads);
}

fn check_query(query: &Tensor<3>, cache: &LayerCache, step: &Step) {
    let [_, n_kv_heads, _, head_dim] = cache.pool.keys.dims();
    let [_, n_heads, _] = query.dims();
    assert_shape!(query, [step.batch(), n_heads, head_dim]);
    check_groups(n_heads, n_kv_heads);
}

fn check_groups(n_heads: usize, n_kv_heads: usize) {
    assert!(
        n_heads.is_multiple_of(n_kv_heads),
        "query heads: expected a multiple of the {n_kv_heads} KV heads, found {n_heads}"
    );
}

#[cfg(test)]
mod tests;
