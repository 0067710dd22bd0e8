//! What the operations take, as the backend sees it: the pools of a layer and the places of a batch
//! cross the dispatch as one value each. A variant that has no tensor binds none.
//!
//! Pools are handed over and given back, so that an operation that writes them holds them alone.

use burn::{
    backend::{
        Backend, Dispatch, ExtensionType,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Int, Tensor},
};

use crate::{
    cache::{self, Int8Digests, Int8Rows, KvPool, KvRows, KvStorage, Sequences},
    digest::DigestKind,
};

/// [`KvPool`]
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct Pool<B: Backend> {
    #[extension_type]
    pub keys: Rows<B>,
    #[extension_type]
    pub values: Rows<B>,
    #[extension_type]
    pub digests: Digests<B>,
}

/// [`KvRows`]
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Rows<B: Backend> {
    /// In the dtype of the cache.
    Full { rows: FloatTensor<B> },
    /// In 8 bits.
    Int8 {
        words: IntTensor<B>,
        scales: FloatTensor<B>,
    },
}

/// [`cache::Digests`]
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Digests<B: Backend> {
    /// In the dtype of the cache.
    Full {
        kind: DigestKind,
        rows: FloatTensor<B>,
    },
    /// In 8 bits as well.
    Int8 {
        kind: DigestKind,
        rows: FloatTensor<B>,
        words: IntTensor<B>,
        scales: FloatTensor<B>,
    },
}

/// [`Sequences`]
#[derive(Clone, ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct Places<B: Backend> {
    pub page_table: IntTensor<B>,
    pub starts: IntTensor<B>,
    pub lengths: IntTensor<B>,
}

/// The pages that a query reads.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) enum PageList<B: Backend> {
    /// All of them; a sequence has at most `bound`, now or when a captured step is replayed.
    All { bound: usize },
    /// `[batch, heads, k]`
    Listed { ids: IntTensor<B> },
}

/// The norms of query heads and key heads.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) enum Norms<B: Backend> {
    None,
    Rms {
        /// Weights, `[2, head_dim]`.
        gammas: FloatTensor<B>,
        epsilon: f32,
    },
}

/// [`DecodeState`](super::DecodeState)
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub(crate) struct State<B: Backend> {
    pub tokens: IntTensor<B>,
    pub starts: IntTensor<B>,
    pub lengths: IntTensor<B>,
    pub history: IntTensor<B>,
}

impl<B: Backend> Digests<B> {
    pub fn kind(&self) -> DigestKind {
        match self {
            Self::Full { kind, .. } | Self::Int8 { kind, .. } => *kind,
        }
    }

    /// Those in the dtype of the cache.
    pub fn rows(&self) -> &FloatTensor<B> {
        match self {
            Self::Full { rows, .. } | Self::Int8 { rows, .. } => rows,
        }
    }
}

impl<B: Backend> Rows<B> {
    pub fn storage(&self) -> KvStorage {
        match self {
            Self::Full { .. } => KvStorage::Full,
            Self::Int8 { .. } => KvStorage::Int8,
        }
    }
}

impl From<KvRows> for Rows<Dispatch> {
    fn from(rows: KvRows) -> Self {
        match rows {
            KvRows::Full(rows) => Self::Full {
                rows: rows.into_dispatch(),
            },
            KvRows::Int8(Int8Rows { words, scales }) => Self::Int8 {
                words: words.into_dispatch(),
                scales: scales.into_dispatch(),
            },
        }
    }
}

impl From<Rows<Dispatch>> for KvRows {
    fn from(rows: Rows<Dispatch>) -> Self {
        match rows {
            Rows::Full { rows } => Tensor::from_dispatch(rows).into(),
            Rows::Int8 { words, scales } => {
                let words = Tensor::from_dispatch(words);
                Int8Rows::from_parts(words, Tensor::from_dispatch(scales)).into()
            }
        }
    }
}

impl From<KvPool> for Pool<Dispatch> {
    fn from(pool: KvPool) -> Self {
        Self {
            keys: pool.keys.into(),
            values: pool.values.into(),
            digests: pool.digests.into(),
        }
    }
}

impl From<Pool<Dispatch>> for KvPool {
    fn from(pool: Pool<Dispatch>) -> Self {
        Self {
            keys: pool.keys.into(),
            values: pool.values.into(),
            digests: pool.digests.into(),
        }
    }
}

impl From<cache::Digests> for Digests<Dispatch> {
    fn from(digests: cache::Digests) -> Self {
        let cache::Digests { kind, rows, int8 } = digests;
        let rows = rows.into_dispatch();
        match int8 {
            None => Self::Full { kind, rows },
            Some(Int8Digests { words, scales }) => Self::Int8 {
                kind,
                rows,
                words: words.into_dispatch(),
                scales: scales.into_dispatch(),
            },
        }
    }
}

impl From<Digests<Dispatch>> for cache::Digests {
    fn from(digests: Digests<Dispatch>) -> Self {
        let (kind, rows, int8) = match digests {
            Digests::Full { kind, rows } => (kind, rows, None),
            Digests::Int8 {
                kind,
                rows,
                words,
                scales,
            } => {
                let words = Tensor::from_dispatch(words);
                let scales = Tensor::from_dispatch(scales);
                (kind, rows, Some(Int8Digests { words, scales }))
            }
        };
        Self {
            kind,
            rows: Tensor::from_dispatch(rows),
            int8,
        }
    }
}

impl From<&Sequences> for Places<Dispatch> {
    fn from(sequences: &Sequences) -> Self {
        let counts = |counts: &Tensor<1, Int>| counts.clone().cast(DType::I32).into_dispatch();
        Self {
            page_table: (sequences.page_table.clone().cast(DType::I32)).into_dispatch(),
            starts: counts(&sequences.starts),
            lengths: counts(&sequences.lengths),
        }
    }
}
