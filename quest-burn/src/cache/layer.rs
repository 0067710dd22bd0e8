use burn::tensor::{Device, Tensor};

#[cfg(feature = "cube")]
use super::PoolId;
use super::{CacheError, Int8Digests, KvPool, KvRows, PolicyStates, check_head_dim};
use crate::digest::DigestKind;

/// The pages of one layer: a pool of keys and values, and the digest of each page's keys.
#[derive(Clone, Debug)]
pub struct LayerCache {
    pub(crate) index: usize,
    pub(crate) pool: KvPool,
    pub(crate) states: PolicyStates,
    pub(super) soft_cap: Option<f64>,
    #[cfg(feature = "cube")]
    pub(super) pool_id: PoolId,
}

impl LayerCache {
    pub(super) fn new(index: usize, pool: KvPool) -> Self {
        Self {
            index,
            pool,
            states: PolicyStates::default(),
            soft_cap: None,
            #[cfg(feature = "cube")]
            pool_id: PoolId::new(),
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
        Self::new(index, KvPool::from_parts(keys, values, digest, digests))
    }

    /// Which layer of the model this is, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Keeps keys and values in 8 bits from here on; those that are there are rounded to the nearest, and
    /// digests stay as they are.
    ///
    /// # Errors
    ///
    /// When the head dim is not a multiple of 16.
    pub fn with_int8_rows(mut self) -> Result<Self, CacheError> {
        let head_dim = self.pool.head_dim();
        check_head_dim(head_dim).map_err(|_| CacheError::Int8KvHeadDim(head_dim))?;
        self.pool = self.pool.with_int8_rows();
        self.renew_pool_id();
        Ok(self)
    }

    /// `[n_pages, n_kv_heads, page_size, head_dim]`: the shape of the keys, and that of the values.
    pub fn dims(&self) -> [usize; 4] {
        self.pool.keys.dims()
    }

    /// The device that the pool is on.
    pub fn device(&self) -> Device {
        self.pool.digests.rows.device()
    }

    /// Keys after RoPE, `[n_pages, n_kv_heads, page_size, head_dim]`. Rows that no sequence holds
    /// are undefined.
    ///
    /// # Panics
    ///
    /// When they are kept in 8 bits; [`key_rows`](Self::key_rows) has them in either form.
    pub fn keys(&self) -> &Tensor<4> {
        self.pool.keys.full()
    }

    /// Values, `[n_pages, n_kv_heads, page_size, head_dim]`.
    ///
    /// # Panics
    ///
    /// When they are kept in 8 bits; [`value_rows`](Self::value_rows) has them in either form.
    pub fn values(&self) -> &Tensor<4> {
        self.pool.values.full()
    }

    /// Keys after RoPE, in the numbers that they are kept in.
    pub fn key_rows(&self) -> &KvRows {
        &self.pool.keys
    }

    /// Values, in the numbers that they are kept in.
    pub fn value_rows(&self) -> &KvRows {
        &self.pool.values
    }

    /// What the digests keep of a page's keys.
    pub fn digest(&self) -> DigestKind {
        self.pool.digests.kind
    }

    /// The digest of each page's keys, `[n_pages, n_kv_heads, rows, channels]` as the
    /// [kind](Self::digest) says.
    pub fn digests(&self) -> &Tensor<4> {
        &self.pool.digests.rows
    }

    /// The digests in 8 bits, by which pages are scored where the cache has them.
    pub fn int8_digests(&self) -> Option<&Int8Digests> {
        self.pool.digests.int8.as_ref()
    }

    /// What attention scores of the layer are kept below, as `cap * tanh(score / cap)`
    /// ([Gemma 2](https://arxiv.org/abs/2408.00118)); none where they are not capped.
    ///
    /// A cap changes no order, so digests bound scores as they do without, and the same pages are
    /// chosen. Attention with a cap runs in tensor operations on every device.
    pub fn soft_cap(&self) -> Option<f64> {
        self.soft_cap
    }

    /// Sets the [cap](Self::soft_cap); an attention layer does so with its own.
    pub fn set_soft_cap(&mut self, soft_cap: Option<f64>) {
        self.soft_cap = soft_cap;
    }

    /// Counts the pool as another one from here on, as its memory is: steps that were recorded with the one
    /// before are void.
    pub(crate) fn renew_pool_id(&mut self) {
        #[cfg(feature = "cube")]
        {
            self.pool_id = PoolId::new();
        }
    }

    /// Counts the pool as another one if writing to it by tensor operations copies it.
    pub(super) fn expect_tensor_writes(&mut self) {
        if !self.pool.is_held_alone() {
            self.renew_pool_id();
        }
    }

    /// A score below the [cap](Self::soft_cap).
    pub(crate) fn capped(&self, score: f64) -> f64 {
        match self.soft_cap {
            Some(cap) => cap * (score / cap).tanh(),
            None => score,
        }
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
