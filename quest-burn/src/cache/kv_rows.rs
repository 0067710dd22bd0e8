//! The keys or the values of a pool, in the dtype of the cache or in 8 bits.

use core::{fmt, ops::Range, str::FromStr};

use burn::tensor::{DType, Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    CHANNELS_PER_WORD, CacheError, MIN_SCALE,
    contiguous::zeros,
    packing::{integers_of_words, packed},
};

/// In which numbers keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvStorage {
    /// In the cache's dtype.
    #[default]
    Full,
    /// In 8 bits, with a scale for each row of each KV head: about half the bytes of f16. Rows are
    /// rounded to the nearest as they are appended; digests are made of the rounded keys.
    Int8,
}

impl KvStorage {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Full, Self::Int8];

    /// The name by which programs know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Int8 => "int8",
        }
    }

    /// What it is, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Full => "Keys and values in the dtype of the model",
            Self::Int8 => "In 8 bits with a scale per row and KV head: about half the bytes of f16",
        }
    }

    /// Bytes of a key or a value of a KV head.
    pub fn bytes_per_row(self, head_dim: usize, dtype: DType) -> usize {
        match self {
            Self::Full => head_dim.saturating_mul(dtype.size()),
            Self::Int8 => head_dim.saturating_add(size_of::<f32>()),
        }
    }
}

impl fmt::Display for KvStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvStorage {
    type Err = CacheError;

    fn from_str(name: &str) -> Result<Self, CacheError> {
        let named = Self::ALL.into_iter().find(|storage| storage.name() == name);
        named.ok_or_else(|| CacheError::KvStorage(name.to_owned()))
    }
}

const FOUND_INT8: &str =
    "keys and values: expected rows in the dtype of the cache, found rows in 8 bits";

/// The largest integer of a row.
pub(crate) const LARGEST_INTEGER: f32 = 127.0;

/// The keys or the values of a pool, `[n_pages, n_kv_heads, page_size, head_dim]`.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a pool has two of them")]
pub enum KvRows {
    /// In the dtype of the cache.
    Full(Tensor<4>),
    /// In 8 bits.
    Int8(Int8Rows),
}

/// Rows in 8 bits: a channel is its integer, from -127 to 127, times the scale of its row.
#[derive(Clone, Debug)]
pub struct Int8Rows {
    pub(crate) words: Tensor<4, Int>,
    pub(crate) scales: Tensor<4>,
}

impl Int8Rows {
    /// Rows of a cache from elsewhere.
    ///
    /// # Shapes
    ///
    /// As [`words`](Self::words) and [`scales`](Self::scales) say.
    pub fn from_parts(words: Tensor<4, Int>, scales: Tensor<4>) -> Self {
        Self { words, scales }
    }

    /// Rows rounded to the nearest.
    ///
    /// # Shapes
    ///
    /// - rows: `[n_pages, n_kv_heads, page_size, head_dim]`, where the head dim is a multiple of 4
    pub fn quantized(rows: Tensor<4>) -> Self {
        let rows = rows.cast(DType::F32);
        let scales = rows.clone().abs().max_dim(3) / LARGEST_INTEGER;
        let scales = scales.clamp_min(MIN_SCALE);
        // A row with a channel that is not a number has no scale, and stands for none either.
        let scales = scales.mask_fill(rows.clone().is_nan().any_dim(3), f32::NAN);
        let rounded = (rows / scales.clone() + 0.5).floor();
        let not_a_number = rounded.clone().is_nan();
        let integers = rounded.mask_fill(not_a_number, 0.0);
        Self {
            words: packed(integers.int().cast(DType::I32)),
            scales,
        }
    }

    /// Four channels per word, the first of them in the lowest byte, `[n_pages, n_kv_heads, page_size,
    /// head_dim / 4]` in i32.
    pub fn words(&self) -> &Tensor<4, Int> {
        &self.words
    }

    /// What the integers of a row are multiplied by, `[n_pages, n_kv_heads, page_size, 1]` in f32.
    pub fn scales(&self) -> &Tensor<4> {
        &self.scales
    }

    /// The rows that these stand for, in f32.
    pub fn widened(&self) -> Tensor<4> {
        integers_of_words(self.words.clone()) * self.scales.clone()
    }
}

impl KvRows {
    /// Zeros.
    pub(super) fn new(
        shape: [usize; 4],
        device: &Device,
        dtype: DType,
        storage: KvStorage,
    ) -> Self {
        let [n_pages, heads, page_size, head_dim] = shape;
        match storage {
            KvStorage::Full => Self::Full(zeros(shape, device, dtype)),
            KvStorage::Int8 => Self::Int8(Int8Rows {
                words: zeros(
                    [n_pages, heads, page_size, head_dim / CHANNELS_PER_WORD],
                    device,
                    DType::I32,
                ),
                scales: zeros([n_pages, heads, page_size, 1], device, DType::F32),
            }),
        }
    }

    /// In which numbers the rows are kept.
    pub fn storage(&self) -> KvStorage {
        match self {
            Self::Full(_) => KvStorage::Full,
            Self::Int8(_) => KvStorage::Int8,
        }
    }

    /// `[n_pages, n_kv_heads, page_size, head_dim]`
    pub fn dims(&self) -> [usize; 4] {
        match self {
            Self::Full(rows) => rows.dims(),
            Self::Int8(Int8Rows { words, .. }) => {
                let [n_pages, heads, page_size, row] = words.dims();
                [n_pages, heads, page_size, row * CHANNELS_PER_WORD]
            }
        }
    }

    /// The device that they are on.
    pub fn device(&self) -> Device {
        match self {
            Self::Full(rows) => rows.device(),
            Self::Int8(rows) => rows.words.device(),
        }
    }

    /// Whether nothing else holds them.
    pub(super) fn is_held_alone(&self) -> bool {
        match self {
            Self::Full(rows) => rows.can_mut(),
            Self::Int8(Int8Rows { words, scales }) => words.can_mut() && scales.can_mut(),
        }
    }

    /// The rows in the dtype of the cache.
    ///
    /// # Panics
    ///
    /// When they are kept in 8 bits.
    pub fn full(&self) -> &Tensor<4> {
        match self {
            Self::Full(rows) => rows,
            Self::Int8(_) => panic!("{FOUND_INT8}"),
        }
    }

    /// All rows as a tensor: as they are, or those that rows in 8 bits stand for, in f32.
    pub fn widened(&self) -> Tensor<4> {
        match self {
            Self::Full(rows) => rows.clone(),
            Self::Int8(rows) => rows.widened(),
        }
    }

    /// Some of the rows, as [`widened`](Self::widened) has them. Both functions take the same ones out of a
    /// tensor `[n_pages, n_kv_heads, page_size, n]`, whatever a row consists of.
    pub(crate) fn read<const D: usize>(
        &self,
        floats: impl Fn(&Tensor<4>) -> Tensor<D>,
        words: impl Fn(&Tensor<4, Int>) -> Tensor<D, Int>,
    ) -> Tensor<D> {
        match self {
            Self::Full(rows) => floats(rows),
            Self::Int8(rows) => integers_of_words(words(&rows.words)) * floats(&rows.scales),
        }
    }

    /// Writes new rows over those of adjacent pages, from row `offset` on.
    ///
    /// # Shapes
    ///
    /// - rows: `[pages, n_kv_heads, rows, head_dim]`
    pub(crate) fn write(&mut self, pages: Range<usize>, offset: usize, rows: Tensor<4>) {
        let [_, heads, n_rows, head_dim] = rows.dims();
        let in_row = |n: usize| [pages.clone(), 0..heads, offset..offset + n_rows, 0..n];
        match self {
            Self::Full(pool) => {
                pool.inplace(|pool| pool.slice_assign(in_row(head_dim), rows));
            }
            Self::Int8(pool) => {
                let new = Int8Rows::quantized(rows);
                let words = in_row(head_dim / CHANNELS_PER_WORD);
                (pool.words).inplace(|pool| pool.slice_assign(words, new.words));
                (pool.scales).inplace(|pool| pool.slice_assign(in_row(1), new.scales));
            }
        }
    }
}

impl From<Tensor<4>> for KvRows {
    fn from(rows: Tensor<4>) -> Self {
        Self::Full(rows)
    }
}

impl From<Int8Rows> for KvRows {
    fn from(rows: Int8Rows) -> Self {
        Self::Int8(rows)
    }
}
