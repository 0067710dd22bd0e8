use burn::{
    backend::{
        Backend, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::DType,
};
use burn_cubecl::CubeBackend;

use super::{
    append, decode_state, int8,
    operands::{Digests, Norms, PageList, Places, Pool, Rows, State},
    page_scores::{self, Scoring},
    paged_attention, prefill_attention, rotate_append, top_k_attention,
    top_pages::{self, TopPages},
};

/// The operations of a decode step as kernels; [`crate::kernels`] says what each does.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait QuestOps: Backend {
    /// Writes new rows and makes the digests of their pages, in place.
    #[fusion(meta = |pool, _, _, _| pool.clone())]
    fn append(
        #[extension_type] pool: Pool<Self>,
        new_keys: FloatTensor<Self>,
        new_values: FloatTensor<Self>,
        #[extension_type] places: Places<Self>,
    ) -> Pool<Self>;

    /// Norms and rotates queries and keys of a merged projection, and appends.
    #[fusion(meta = |pool, qkv, _, _, _| (pool.clone(), super::shapes::query_of(pool, qkv)))]
    fn rotate_append(
        #[extension_type] pool: Pool<Self>,
        qkv: FloatTensor<Self>,
        #[extension_type] norms: Norms<Self>,
        rotations: FloatTensor<Self>,
        #[extension_type] places: Places<Self>,
    ) -> (Pool<Self>, FloatTensor<Self>);

    /// Packs the digests of the pages that a step writes, in place.
    #[fusion(meta = |digests, _, _, _| digests.clone())]
    fn quantize_digests(
        #[extension_type] digests: Digests<Self>,
        #[extension_type] places: Places<Self>,
        page_size: usize,
        tokens: usize,
    ) -> Digests<Self>;

    /// Scores of each page by its digest.
    #[fusion(dtype = DType::F32, shape = super::shapes::scores(query, digests, scoring))]
    fn page_scores(
        query: FloatTensor<Self>,
        #[extension_type] digests: Digests<Self>,
        #[extension_type] places: Places<Self>,
        scoring: Scoring,
    ) -> FloatTensor<Self>;

    /// The pages with the highest scores.
    #[fusion(dtype = DType::I32, shape = super::shapes::ids(scores, top.selection.k))]
    fn top_pages(
        scores: FloatTensor<Self>,
        lengths: IntTensor<Self>,
        top: TopPages,
    ) -> IntTensor<Self>;

    /// The same for the sequences that are due, in place.
    #[fusion(dtype = ids, shape = ids)]
    fn renew_top_pages(
        scores: FloatTensor<Self>,
        lengths: IntTensor<Self>,
        due: IntTensor<Self>,
        ids: IntTensor<Self>,
        top: TopPages,
    ) -> IntTensor<Self>;

    /// Attention of one query token over listed pages, or over all; or of several, which are as many heads.
    #[fusion(dtype = query, shape = query)]
    fn paged_attention(
        query: FloatTensor<Self>,
        #[extension_type] keys: Rows<Self>,
        #[extension_type] values: Rows<Self>,
        #[extension_type] pages: PageList<Self>,
        #[extension_type] places: Places<Self>,
        chunk: Option<usize>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// Page scores, selection and attention together.
    #[fusion(dtype = query, shape = query)]
    fn top_k_attention(
        query: FloatTensor<Self>,
        #[extension_type] pool: Pool<Self>,
        #[extension_type] places: Places<Self>,
        pages: top_k_attention::TopKPages,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// Causal attention of many query tokens.
    #[fusion(dtype = query, shape = query)]
    fn prefill_attention(
        query: FloatTensor<Self>,
        #[extension_type] keys: Rows<Self>,
        #[extension_type] values: Rows<Self>,
        #[extension_type] places: Places<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// Chooses the next tokens and moves on to the next position, in place.
    #[fusion(meta = |_, _, state| state.clone())]
    fn next_tokens(
        logits: FloatTensor<Self>,
        active: IntTensor<Self>,
        #[extension_type] state: State<Self>,
    ) -> State<Self>;

    /// Writes values over a target, in place.
    #[fusion(dtype = target, shape = target)]
    fn assign(target: IntTensor<Self>, values: IntTensor<Self>) -> IntTensor<Self>;
}

impl QuestOps for CubeBackend {
    fn append(
        pool: Pool<Self>,
        new_keys: FloatTensor<Self>,
        new_values: FloatTensor<Self>,
        places: Places<Self>,
    ) -> Pool<Self> {
        append::launch(pool, new_keys, new_values, places)
    }

    fn rotate_append(
        pool: Pool<Self>,
        qkv: FloatTensor<Self>,
        norms: Norms<Self>,
        rotations: FloatTensor<Self>,
        places: Places<Self>,
    ) -> (Pool<Self>, FloatTensor<Self>) {
        rotate_append::launch(pool, qkv, norms, rotations, places)
    }

    fn quantize_digests(
        digests: Digests<Self>,
        places: Places<Self>,
        page_size: usize,
        tokens: usize,
    ) -> Digests<Self> {
        int8::launch(digests, places, page_size, tokens)
    }

    fn page_scores(
        query: FloatTensor<Self>,
        digests: Digests<Self>,
        places: Places<Self>,
        scoring: Scoring,
    ) -> FloatTensor<Self> {
        page_scores::launch(query, digests, places, scoring)
    }

    fn top_pages(
        scores: FloatTensor<Self>,
        lengths: IntTensor<Self>,
        top: TopPages,
    ) -> IntTensor<Self> {
        top_pages::launch(scores, lengths, top)
    }

    fn renew_top_pages(
        scores: FloatTensor<Self>,
        lengths: IntTensor<Self>,
        due: IntTensor<Self>,
        ids: IntTensor<Self>,
        top: TopPages,
    ) -> IntTensor<Self> {
        top_pages::launch_renewal(scores, lengths, due, ids, top)
    }

    fn paged_attention(
        query: FloatTensor<Self>,
        keys: Rows<Self>,
        values: Rows<Self>,
        pages: PageList<Self>,
        places: Places<Self>,
        chunk: Option<usize>,
        scale: f32,
    ) -> FloatTensor<Self> {
        paged_attention::launch(query, keys, values, pages, places, chunk, scale)
    }

    fn top_k_attention(
        query: FloatTensor<Self>,
        pool: Pool<Self>,
        places: Places<Self>,
        pages: top_k_attention::TopKPages,
        scale: f32,
    ) -> FloatTensor<Self> {
        top_k_attention::launch(query, pool, places, pages, scale)
    }

    fn prefill_attention(
        query: FloatTensor<Self>,
        keys: Rows<Self>,
        values: Rows<Self>,
        places: Places<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        prefill_attention::launch(query, keys, values, places, scale)
    }

    fn next_tokens(
        logits: FloatTensor<Self>,
        active: IntTensor<Self>,
        state: State<Self>,
    ) -> State<Self> {
        decode_state::launch_next_tokens(logits, active, state)
    }

    fn assign(target: IntTensor<Self>, values: IntTensor<Self>) -> IntTensor<Self> {
        decode_state::launch_assign(target, values)
    }
}
