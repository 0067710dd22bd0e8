//! The operations of a decode step on a paged KV cache.
//!
//! | operation | what it does |
//! |---|---|
//! | [`append`] | writes the rows of new tokens and folds their keys into the page digests |
//! | [`rotate_append`] | the same from a merged projection, with norms and RoPE |
//! | [`page_scores`] | bounds, per page, the attention score of its keys |
//! | [`top_pages`] | the pages with the highest scores |
//! | [`paged_attention`] | attention of one query token over the chosen pages |
//! | [`best_attention`] | the three above together |
//! | [`prefill_attention`] | causal attention of many query tokens over all pages |
//! | [`token_attention`], [`token_weights`] | attention of one query token over listed tokens |
//! | [`token_scores`], [`true_page_scores`] | the true products of query and keys |
//!
//! Each has a body in Burn tensor operations that runs on every backend ([`mod@reference`]). All but
//! those on single tokens are kernels on CubeCL devices, and native code on the Flex backend. They are
//! tested against these bodies. This module decides which one runs.

#[cfg(feature = "cube")]
pub(crate) mod extension;
pub(crate) mod int8;
#[cfg(feature = "cube")]
pub(crate) mod int8_extension;
#[cfg(feature = "cube")]
mod kernel;
pub mod reference;
mod rotate_append;
#[cfg(all(feature = "cube", feature = "fusion"))]
mod shapes;
mod tokens;

use burn::tensor::{Tensor, assert_shape};

pub use rotate_append::rotate_append;
pub use tokens::{TokenAttention, token_attention, token_scores, token_weights, true_page_scores};

#[cfg(feature = "flex")]
use crate::simd;
use crate::{
    PageSharing,
    cache::{LayerCache, Step},
    policy::{PageSelection, Pages},
};

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
    let [_, n_kv_heads, page_size, head_dim] = cache.keys.dims();
    let (batch, tokens) = (step.batch(), step.max_new_tokens());
    assert_shape!(keys, [batch, n_kv_heads, tokens, head_dim]);
    assert_shape!(values, [batch, n_kv_heads, tokens, head_dim]);
    assert_eq!(page_size, step.page_size(), "page size of cache and step");
    let dtype = cache.keys.dtype();
    let (keys, values) = (keys.cast(dtype), values.cast(dtype));
    #[cfg(feature = "cube")]
    if kernel::supports(cache) {
        return kernel::append(cache, keys, values, step);
    }
    #[cfg(feature = "flex")]
    if simd::supports(cache, &keys.device()) {
        simd::append(cache, keys, values, step);
        return simd::quantize_digests(cache, step);
    }
    reference::append(cache, keys, values, step);
    reference::quantize_digests(cache, step);
}

/// Folds the first `rows` keys of a pool page into its digest anew.
pub(crate) fn rebuild_digest(cache: &mut LayerCache, page: usize, rows: usize) {
    reference::rebuild_digest(cache, page, rows);
    reference::quantize_pages(cache, page..page + 1);
}

/// Upper bounds of `query . key` over the keys of each page:
/// `sum_i max(query_i * min_i, query_i * max_i)`, of the digests in 8 bits where the cache has them.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - output: `[batch, n_heads, max_pages]` in f32, or `[batch, n_kv_heads, max_pages]` with the
///   maximum over the query heads of a group when pages are shared per KV head, where `max_pages`
///   is the step's [`Step::max_pages`]. Entries past a sequence's pages are undefined.
///
/// # Panics
///
/// When the shapes do not fit the cache and the step.
pub fn page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    sharing: PageSharing,
) -> Tensor<3> {
    check_query(&query, cache, step);
    #[cfg(feature = "cube")]
    if kernel::supports(cache) {
        return kernel::page_scores(query, cache, step, sharing);
    }
    #[cfg(feature = "flex")]
    if simd::supports(cache, &query.device()) {
        return simd::page_scores(query, cache, step, sharing);
    }
    reference::page_scores(query, cache, step, sharing)
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
    #[cfg(feature = "cube")]
    if crate::kernels::supported(&scores.device()) {
        return kernel::top_pages(scores, step, selection);
    }
    #[cfg(feature = "flex")]
    if simd::runs_on(&scores.device()) {
        return simd::top_pages(scores, step, selection);
    }
    reference::top_pages(scores, step, selection)
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
    cache: &mut LayerCache,
    pages: &Pages,
    step: &Step,
    scale: f64,
) -> Tensor<3> {
    check_query(&query, cache, step);
    if let Pages::Tokens(lists) = pages {
        return token_attention(query, cache, lists, step, scale).output;
    }
    #[cfg(feature = "cube")]
    if kernel::supports(cache) {
        return kernel::paged_attention(query, cache, pages, step, scale);
    }
    #[cfg(feature = "flex")]
    if simd::supports(cache, &query.device()) && simd::reads(pages) {
        return simd::paged_attention(query, cache, pages, step, scale);
    }
    reference::paged_attention(query, cache, pages, step, scale)
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
pub fn best_attention(
    query: Tensor<3>,
    cache: &mut LayerCache,
    step: &Step,
    selection: &PageSelection,
    sharing: PageSharing,
    scale: f64,
) -> Tensor<3> {
    check_query(&query, cache, step);
    #[cfg(feature = "cube")]
    if kernel::supports(cache) {
        return kernel::best_attention(query, cache, step, selection, sharing, scale);
    }
    #[cfg(feature = "flex")]
    if simd::supports(cache, &query.device()) {
        return simd::best_attention(query, cache, step, selection, sharing, scale);
    }
    let scores = reference::page_scores(query.clone(), cache, step, sharing);
    let pages = reference::top_pages(scores, step, selection);
    reference::paged_attention(query, cache, &pages, step, scale)
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
    let [_, n_kv_heads, _, head_dim] = cache.keys.dims();
    let [_, n_heads, _, _] = query.dims();
    assert_shape!(
        query,
        [step.batch(), n_heads, step.max_new_tokens(), head_dim]
    );
    check_groups(n_heads, n_kv_heads);
    #[cfg(feature = "cube")]
    if kernel::prefills(cache) {
        return kernel::prefill_attention(query, cache, step, scale);
    }
    #[cfg(feature = "flex")]
    if simd::supports(cache, &query.device()) {
        return simd::prefill_attention(query, cache, step, scale);
    }
    reference::prefill_attention(query, cache, step, scale)
}

fn check_query(query: &Tensor<3>, cache: &LayerCache, step: &Step) {
    let [_, n_kv_heads, _, head_dim] = cache.keys.dims();
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
