//! What operations take of a cache.

use burn::tensor::{DType, Device, Int, Tensor, assert_shape};

use super::{
    DigestStorage, Int8Digests, Int8Rows, KvRows, PagedKvCacheConfig,
    contiguous::{contiguous, zeros},
};
use crate::digest::DigestKind;

/// The pages of one layer, which an append writes in place.
#[derive(Clone, Debug)]
pub struct KvPool {
    /// Keys after RoPE, `[n_pages, n_kv_heads, page_size, head_dim]`.
    pub keys: KvRows,
    /// Values, `[n_pages, n_kv_heads, page_size, head_dim]`, in the same numbers.
    pub values: KvRows,
    /// What is kept of each page's keys.
    pub digests: Digests,
}

/// The digests of a pool of pages.
#[derive(Clone, Debug)]
pub struct Digests {
    /// What they keep of a page's keys.
    pub kind: DigestKind,
    /// `[n_pages, n_kv_heads, rows, channels]`, of the [kind's shape](DigestKind::shape).
    pub rows: Tensor<4>,
    /// The same in 8 bits, by which pages are scored where they are there.
    pub int8: Option<Int8Digests>,
}

/// Where the tokens of a batch are, on the device, as kernels read it.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Logical page -> pool page, `[batch, max_pages]`.
    pub page_table: Tensor<2, Int>,
    /// Tokens that each sequence held before the step, `[batch]`.
    pub starts: Tensor<1, Int>,
    /// Tokens that each sequence holds after the step, `[batch]`.
    pub lengths: Tensor<1, Int>,
}

impl KvPool {
    /// Zeros.
    pub(super) fn new(config: &PagedKvCacheConfig, device: &Device, dtype: DType) -> Self {
        let &PagedKvCacheConfig {
            n_kv_heads,
            head_dim,
            n_pages,
            page_size,
            digest: kind,
            ..
        } = config;
        let pool = [n_pages, n_kv_heads, page_size, head_dim];
        let [rows, channels] = kind.shape(head_dim);
        Self {
            keys: KvRows::new(pool, device, dtype, config.kv_storage),
            values: KvRows::new(pool, device, dtype, config.kv_storage),
            digests: Digests {
                kind,
                rows: zeros([n_pages, n_kv_heads, rows, channels], device, dtype),
                int8: (config.digest_storage == DigestStorage::Int8)
                    .then(|| Int8Digests::new(kind, n_pages, n_kv_heads, head_dim, device)),
            },
        }
    }

    /// Whether nothing else holds a part of it, so that it is written in place.
    pub(super) fn is_held_alone(&self) -> bool {
        let Digests { rows, int8, .. } = &self.digests;
        let packed = int8.as_ref();
        let packed = packed.is_none_or(|int8| int8.words.can_mut() && int8.scales.can_mut());
        self.keys.is_held_alone() && self.values.is_held_alone() && rows.can_mut() && packed
    }

    /// Pages made elsewhere, laid out as kernels write them.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit together.
    pub(super) fn from_parts(
        keys: Tensor<4>,
        values: Tensor<4>,
        kind: DigestKind,
        rows: Tensor<4>,
    ) -> Self {
        let [n_pages, n_kv_heads, page_size, head_dim] = keys.dims();
        assert_shape!(values, [n_pages, n_kv_heads, page_size, head_dim]);
        let [n_rows, channels] = kind.shape(head_dim);
        assert_shape!(rows, [n_pages, n_kv_heads, n_rows, channels]);
        Self {
            keys: contiguous(keys).into(),
            values: contiguous(values).into(),
            digests: Digests {
                kind,
                rows: contiguous(rows),
                int8: None,
            },
        }
    }

    /// The same pages with keys and values in 8 bits, rounded to the nearest. Digests stay as they are.
    pub(super) fn with_int8_rows(self) -> Self {
        let quantized = |rows: KvRows| match rows {
            KvRows::Full(rows) => {
                let Int8Rows { words, scales } = Int8Rows::quantized(rows);
                Int8Rows::from_parts(contiguous(words), contiguous(scales)).into()
            }
            KvRows::Int8(_) => rows,
        };
        Self {
            keys: quantized(self.keys),
            values: quantized(self.values),
            digests: self.digests,
        }
    }

    /// The cache's dtype, which is that of the digests, and of keys and values that are not in 8 bits.
    pub(crate) fn dtype(&self) -> DType {
        self.digests.rows.dtype()
    }

    /// Channels of a head.
    pub(crate) fn head_dim(&self) -> usize {
        self.keys.dims()[3]
    }
}
