use burn::tensor::{DType, Device, Tensor};

use crate::{digest::DigestKind, ops};

use super::{CacheError, DigestStorage, Int8Digests, PolicyStates, digests::check_head_dim};

/// The pages of one layer: a pool of keys and values, and the digest of each page's keys.
#[derive(Clone, Debug)]
pub struct LayerCache {
    pub(crate) index: usize,
    pub(crate) keys: Tensor<4>,
    pub(crate) values: Tensor<4>,
    pub(crate) digest: DigestKind,
    pub(crate) digests: Tensor<4>,
    pub(crate) int8_digests: Option<Int8Digests>,
    pub(crate) states: PolicyStates,
}

impl LayerCache {
    pub(super) fn new(
        index: usize,
        [n_pages, n_kv_heads, page_size, head_dim]: [usize; 4],
        device: &Device,
        dtype: DType,
        digest: DigestKind,
        storage: DigestStorage,
    ) -> Self {
        // CUDA pitches the rows of some tensors; a reshaped line has none.
        let pool = |[rows, channels]: [usize; 2]| {
            let shape = [n_pages, n_kv_heads, rows, channels];
            Tensor::<1>::zeros([shape.iter().product::<usize>()], (device, dtype)).reshape(shape)
        };
        Self {
            index,
            keys: pool([page_size, head_dim]),
            values: pool([page_size, head_dim]),
            digest,
            digests: pool(digest.shape(head_dim)),
            int8_digests: (storage == DigestStorage::Int8)
                .then(|| Int8Digests::new(digest, n_pages, n_kv_heads, head_dim, device)),
            states: PolicyStates::default(),
        }
    }

    /// Pages made by the caller instead of zeros, for one who brings a cache from elsewhere.
    ///
    /// # Shapes
    ///
    /// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`
    /// - digests: `[n_pages, n_kv_heads, rows, channels]`, of the [kind's shape](DigestKind::shape)
    ///
    /// # Panics
    ///
    /// When the shapes do not fit together.
    pub fn from_parts(
        index: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
        digest: DigestKind,
        digests: Tensor<4>,
    ) -> Self {
        let [n_pages, n_kv_heads, page_size, head_dim] = keys.dims();
        burn::tensor::assert_shape!(values, [n_pages, n_kv_heads, page_size, head_dim]);
        let [rows, channels] = digest.shape(head_dim);
        burn::tensor::assert_shape!(digests, [n_pages, n_kv_heads, rows, channels]);
        Self {
            index,
            keys: in_line(keys),
            values: in_line(values),
            digest,
            digests: in_line(digests),
            int8_digests: None,
            states: PolicyStates::default(),
        }
    }

    /// Keeps the digests in 8 bits as well, to score pages by them; those that are there are packed
    /// now.
    ///
    /// # Errors
    ///
    /// When the head dim is not a multiple of 16.
    pub fn with_int8_digests(mut self) -> Result<Self, CacheError> {
        let [_, _, _, head_dim] = self.keys.dims();
        check_head_dim(head_dim)?;
        let packed = ops::int8::quantized_pool(self.digest, self.digests.clone(), head_dim);
        self.int8_digests = Some(packed);
        Ok(self)
    }

    /// Which layer of the model this is, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Keys after RoPE, `[n_pages, n_kv_heads, page_size, head_dim]`. Rows that no sequence holds
    /// are undefined.
    pub fn keys(&self) -> &Tensor<4> {
        &self.keys
    }

    /// Values, `[n_pages, n_kv_heads, page_size, head_dim]`.
    pub fn values(&self) -> &Tensor<4> {
        &self.values
    }

    /// What the digests keep of a page's keys.
    pub fn digest(&self) -> DigestKind {
        self.digest
    }

    /// The digest of each page's keys, `[n_pages, n_kv_heads, rows, channels]` as the
    /// [kind](Self::digest) says.
    pub fn digests(&self) -> &Tensor<4> {
        &self.digests
    }

    /// The digests in 8 bits, by which pages are scored where the cache has them.
    pub fn int8_digests(&self) -> Option<&Int8Digests> {
        self.int8_digests.as_ref()
    }

    /// What policies remember of each sequence.
    pub fn states(&self) -> &PolicyStates {
        &self.states
    }

    /// What policies remember of each sequence, to be changed.
    pub fn states_mut(&mut self) -> &mut PolicyStates {
        &mut self.states
    }
}

/// Without gaps between rows, such as CUDA leaves in some tensors.
fn in_line(pool: Tensor<4>) -> Tensor<4> {
    let shape = pool.dims();
    pool.reshape([shape.iter().product::<usize>()])
        .reshape(shape)
}
