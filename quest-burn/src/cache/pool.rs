//! What operations take of a cache.

use burn::tensor::{DType, Device, Int, Tensor, assert_shape};

use super::{
    DigestStorage, Int8Digests,
    contiguous::{contiguous, zeros},
};
use crate::digest::DigestKind;

/// The pages of one layer, which an append writes in place.
#[derive(Clone, Debug)]
pub struct KvPool {
    /// Keys after RoPE, `[n_pages, n_kv_heads, page_size, head_dim]`.
    pub keys: Tensor<4>,
    /// Values, `[n_pages, n_kv_heads, page_size, head_dim]`.
    pub values: Tensor<4>,
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
    pub(super) fn new(
        [n_pages, n_kv_heads, page_size, head_dim]: [usize; 4],
        device: &Device,
        dtype: DType,
        kind: DigestKind,
        storage: DigestStorage,
    ) -> Self {
        let pool = |[rows, channels]: [usize; 2]| {
            zeros([n_pages, n_kv_heads, rows, channels], device, dtype)
        };
        Self {
            keys: pool([page_size, head_dim]),
            values: pool([page_size, head_dim]),
            digests: Digests {
                kind,
                rows: pool(kind.shape(head_dim)),
                int8: (storage == DigestStorage::Int8)
                    .then(|| Int8Digests::new(kind, n_pages, n_kv_heads, head_dim, device)),
            },
        }
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
            keys: contiguous(keys),
            values: contiguous(values),
            digests: Digests {
                kind,
                rows: contiguous(rows),
                int8: None,
            },
        }
    }

    /// Channels of a head.
    pub(crate) fn head_dim(&self) -> usize {
        self.keys.dims()[3]
    }
}
