use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_cubecl::CubeBackend;

use crate::{
    digest::DigestKind,
    kernels::{
        BestPages, append, best_attention,
        int8::{PackedPools, launch_quantize_digests},
        page_scores::{Digests, launch_int8_page_scores},
        rotate_append,
    },
};

/// The operations on digests in 8 bits as kernels; [`crate::kernels`] says what each does.
#[allow(clippy::too_many_arguments)]
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait Int8Ops: Backend {
    /// Writes new rows, folds their keys into the digests and packs those, in place.
    #[allow(clippy::type_complexity)]
    #[fusion(meta = |keys, values, digests, words, scales, _, _, _, _, _, _| (keys.clone(), values.clone(), digests.clone(), words.clone(), scales.clone()))]
    fn int8_append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digest: DigestKind,
        new_keys: FloatTensor<Self>,
        new_values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        IntTensor<Self>,
        FloatTensor<Self>,
    );

    /// Norms and rotates queries and keys of a merged projection, appends, and packs digests.
    #[allow(clippy::type_complexity)]
    #[fusion(meta = |keys, values, digests, words, scales, _, qkv, _, _, _, _, _, _, _| (keys.clone(), values.clone(), digests.clone(), words.clone(), scales.clone(), super::shapes::query_of(keys, qkv)))]
    fn int8_rotate_append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
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
        IntTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// Packs the digests of the pages that a step writes, in place.
    #[fusion(meta = |words, scales, _, _, _, _, _, _, _| (words.clone(), scales.clone()))]
    fn quantize_digests(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        tokens: usize,
    ) -> (IntTensor<Self>, FloatTensor<Self>);

    /// Bounds of the attention scores of each page.
    #[fusion(dtype = burn::tensor::DType::F32, shape = super::shapes::scores(query, words[0], shared, n_scores))]
    fn int8_page_scores(
        query: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digest: DigestKind,
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
        digest: DigestKind,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        pages: BestPages,
    ) -> FloatTensor<Self>;
}

impl Int8Ops for CubeBackend {
    fn int8_append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digest: DigestKind,
        new_keys: FloatTensor<Self>,
        new_values: FloatTensor<Self>,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        IntTensor<Self>,
        FloatTensor<Self>,
    ) {
        let packed = PackedPools { words, scales };
        let (keys, values, digests) = append::launch_append(
            keys,
            values,
            digests,
            digest,
            Some(&packed),
            new_keys,
            new_values,
            page_table,
            starts,
            lengths,
        );
        (keys, values, digests, packed.words, packed.scales)
    }

    fn int8_rotate_append(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
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
        IntTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let packed = PackedPools { words, scales };
        let (keys, values, digests, query) = rotate_append::launch_rotate_append(
            keys,
            values,
            digests,
            digest,
            Some(&packed),
            qkv,
            gammas,
            rotations,
            page_table,
            starts,
            lengths,
            normed,
            epsilon,
        );
        (keys, values, digests, packed.words, packed.scales, query)
    }

    fn quantize_digests(
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digests: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        starts: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        tokens: usize,
    ) -> (IntTensor<Self>, FloatTensor<Self>) {
        let packed = PackedPools { words, scales };
        launch_quantize_digests(
            &packed, digests, digest, page_table, starts, lengths, page_size, tokens,
        );
        (packed.words, packed.scales)
    }

    fn int8_page_scores(
        query: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        page_size: usize,
        shared: bool,
        n_scores: usize,
    ) -> FloatTensor<Self> {
        launch_int8_page_scores(
            query, words, scales, digest, page_table, lengths, page_size, shared, n_scores,
        )
    }

    fn int8_best_attention(
        query: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        words: IntTensor<Self>,
        scales: FloatTensor<Self>,
        digest: DigestKind,
        page_table: IntTensor<Self>,
        lengths: IntTensor<Self>,
        scale: f32,
        pages: BestPages,
    ) -> FloatTensor<Self> {
        let digests = Digests::Int8 { words, scales };
        best_attention::launch_best_attention(
            query, keys, values, digests, digest, page_table, lengths, scale, pages,
        )
    }
}
