use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_cubecl::CubeBackend;

use crate::{
    digest::DigestKind,
    kernels::{
        BestPages, advance, append, best_attention, decode_state,
        page_scores::{self, Digests},
        paged_attention, prefill_attention, rotate_append, top_pages,
    },
};

/// The operations of a decode step as kernels; [`crate::kernels`] says what each does.
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait QuestOps: Backend {
    /// Writes new rows and folds their keys into the digests, in place.
    #[fusion(meta = |keys, values, digests, _, _, _, _, _, _| (keys.clone(), values.clone(), digests.clone()))]
    fn append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        new_keys: FloatTensor<Self>,
        new_values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Norms and rotates queries and keys of a merged projection, and appends.
    #[allow(clippy::type_complexity)]
    #[fusion(meta = |keys, values, digests, _, qkv, _, _, _, _, _, _, _| (keys.clone(), values.clone(), digests.clone(), super::shapes::query_of(keys, qkv)))]
    fn rotate_append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        qkv: FloatTensor<Self>,
        gammas: FloatTensor<Self>,
        rotations: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        normed: bool,
        epsilon: f32,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// Adds 1 to every count, in place.
    #[fusion(dtype = counts, shape = counts)]
    fn advance(counts: IntTensor<Self>) -> IntTensor<Self>;

    /// Chooses the next tokens and moves on to the next position, in place.
    #[allow(clippy::type_complexity)]
    #[fusion(meta = |_, _, tokens, starts, lengths, history| (tokens.clone(), starts.clone(), lengths.clone(), history.clone()))]
    fn next_tokens(
        logits: FloatTensor<Self>,
        active: IntTensor<Self>,
        tokens: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        history: IntTensor<Self>,
    ) -> (
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
    );

    /// Writes values over a target, in place.
    #[fusion(dtype = target, shape = target)]
    fn assign(target: IntTensor<Self>, values: IntTensor<Self>) -> IntTensor<Self>;

    /// Bounds of the attention scores of each page.
    #[fusion(dtype = burn::tensor::DType::F32, shape = super::shapes::scores(query, digests[1], shared, n_scores))]
    fn page_scores(
        query: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        shared: bool,
        n_scores: usize,
    ) -> FloatTensor<Self>;

    /// The pages with the highest scores.
    #[fusion(dtype = burn::tensor::DType::I32, shape = super::shapes::ids(scores, k))]
    fn top_pages(
        scores: FloatTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        k: usize,
        sink_pages: usize,
        recent_pages: usize,
    ) -> IntTensor<Self>;

    /// Attention over listed pages.
    #[fusion(dtype = query, shape = query)]
    fn listed_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pages: IntTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// Page scores, selection and attention together.
    #[fusion(dtype = query, shape = query)]
    fn best_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        pages: BestPages,
    ) -> FloatTensor<Self>;

    /// Attention over all pages.
    #[fusion(dtype = query, shape = query)]
    fn dense_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        n_pages_bound: usize,
    ) -> FloatTensor<Self>;

    /// Causal attention of many query tokens.
    #[fusion(dtype = query, shape = query)]
    fn prefill_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;
}

impl QuestOps for CubeBackend {
    fn append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        new_keys: FloatTensor<Self>,
        new_values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        append::launch_append(
            keys, values, digests, digest, None, new_keys, new_values, page_table, starts, lengths,
        )
    }

    fn rotate_append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        qkv: FloatTensor<Self>,
        gammas: FloatTensor<Self>,
        rotations: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        normed: bool,
        epsilon: f32,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        rotate_append::launch_rotate_append(
            keys, values, digests, digest, None, qkv, gammas, rotations, page_table, starts,
            lengths, normed, epsilon,
        )
    }

    fn advance(counts: IntTensor<Self>) -> IntTensor<Self> {
        advance::launch_advance(counts)
    }

    fn next_tokens(
        logits: FloatTensor<Self>,
        active: IntTensor<Self>,
        tokens: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        history: IntTensor<Self>,
    ) -> (
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
        IntTensor<Self>,
    ) {
        decode_state::launch_next_tokens(logits, active, tokens, starts, lengths, history)
    }

    fn assign(target: IntTensor<Self>, values: IntTensor<Self>) -> IntTensor<Self> {
        decode_state::launch_assign(target, values)
    }

    fn page_scores(
        query: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        shared: bool,
        n_scores: usize,
    ) -> FloatTensor<Self> {
        page_scores::launch_page_scores(
            query, digests, digest, page_table, lengths, page_size, shared, n_scores,
        )
    }

    fn top_pages(
        scores: FloatTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        k: usize,
        sink_pages: usize,
        recent_pages: usize,
    ) -> IntTensor<Self> {
        top_pages::launch_top_pages(scores, lengths, page_size, k, sink_pages, recent_pages)
    }

    fn listed_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pages: IntTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        paged_attention::launch_paged_attention(
            query,
            keys,
            values,
            Some(pages),
            page_table,
            lengths,
            scale,
            0,
        )
    }

    fn best_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        pages: BestPages,
    ) -> FloatTensor<Self> {
        best_attention::launch_best_attention(
            query,
            keys,
            values,
            Digests::Full(digests),
            digest,
            page_table,
            lengths,
            scale,
            pages,
        )
    }

    fn dense_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        n_pages_bound: usize,
    ) -> FloatTensor<Self> {
        paged_attention::launch_paged_attention(
            query,
            keys,
            values,
            None,
            page_table,
            lengths,
            scale,
            n_pages_bound,
        )
    }

    fn prefill_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        prefill_attention::launch_prefill_attention(
            query, keys, values, page_table, starts, lengths, scale,
        )
    }
}
