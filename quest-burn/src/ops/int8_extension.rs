use burn::{
    backend::{
        Backend, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape},
};
use burn_cubecl::CubeBackend;

use crate::kernels::{
    BestPages, int8,
    page_scores::{Digests, int8_page_scores},
    paged_attention,
};

/// The operations on digests in 8 bits as kernels; [`crate::kernels`] says what each does.
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait Int8Ops: Backend {
    /// Packs the digests of the pages that a step writes, in place.
    #[fusion(meta = |words, scales, _, _, _, _, _, _| (words.clone(), scales.clone()))]
    fn quantize_digests(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        tokens: usize,
    ) -> (IntTensor<Self>, FloatTensor<Self>);

    /// Bounds of the attention scores of each page.
    #[fusion(dtype = DType::F32, shape = scores_shape(query, words, shared, n_scores))]
    fn int8_page_scores(
        query: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        shared: bool,
        n_scores: usize,
    ) -> FloatTensor<Self>;

    /// Page scores, selection and attention together.
    #[fusion(dtype = query, shape = query)]
    fn int8_best_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        pages: BestPages,
    ) -> FloatTensor<Self>;
}

fn scores_shape(query: &Shape, words: &Shape, shared: &bool, n_scores: &usize) -> Shape {
    let heads = if *shared { words[0] } else { query[1] };
    Shape::from([query[0], heads, *n_scores])
}

impl Int8Ops for CubeBackend {
    fn quantize_digests(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        tokens: usize,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        int8::launch_quantize_digests(
            words, scales, digests, page_table, starts, lengths, page_size, tokens,
        )
    }

    fn int8_page_scores(
        query: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        shared: bool,
        n_scores: usize,
    ) -> FloatTensor<Self> {
        int8_page_scores(
            query, words, scales, page_table, lengths, page_size, shared, n_scores,
        )
    }

    fn int8_best_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        pages: BestPages,
    ) -> FloatTensor<Self> {
        let digests = Digests::Int8 { words, scales };
        paged_attention::best_attention(
            query, keys, values, digests, page_table, lengths, scale, pages,
        )
    }
}
