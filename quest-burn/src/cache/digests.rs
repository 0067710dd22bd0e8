use core::{fmt, str::FromStr};

use burn::tensor::{DType, Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use super::{CacheError, contiguous::zeros};
use crate::digest::DigestKind;

/// In which numbers the digests are read when pages are scored, whatever their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DigestStorage {
    /// As they are folded, in the cache's dtype.
    Full,
    /// In 8 bits: half the bytes of f16. Minima and maxima are rounded outwards, so that a page's
    /// score still bounds the score of each of its keys; digests that promise no bound are rounded to
    /// the nearest. The full digests are kept as well, as new keys are folded into those.
    Int8,
}

impl DigestStorage {
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
            Self::Full => "Digests in the dtype of the KV cache",
            Self::Int8 => "In 8 bits, to read half the bytes; bounds are rounded outwards",
        }
    }
}

impl fmt::Display for DigestStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DigestStorage {
    type Err = CacheError;

    fn from_str(name: &str) -> Result<Self, CacheError> {
        let named = Self::ALL.into_iter().find(|format| format.name() == name);
        named.ok_or_else(|| CacheError::DigestStorage(name.to_owned()))
    }
}

/// Channels that share a scale, or the head dim where it is smaller.
pub(crate) const CHANNELS_PER_SCALE: usize = 32;
/// Channels of a word.
pub(crate) const CHANNELS_PER_WORD: usize = 4;
/// The head dim must be a multiple of this: a unit reads 16 bytes, and they have one scale.
const CHANNELS_PER_LOAD: usize = 16;

/// A scale is the largest magnitude of its channels times this. It exceeds `1 / 127` by more than
/// [`OUTWARD`] takes, so that no quotient leaves -127 to 127.
pub(crate) const SCALE_OF_LARGEST: f32 = (1.0 + 1.0 / (1 << 18) as f32) / 127.0;
/// The least scale: quotients stay finite where all channels are zero or denormal.
pub(crate) const MIN_SCALE: f32 = 1.0 / (1u128 << 100) as f32;
/// How far a quotient is moved outwards, in shares of itself, before it is rounded: more than the
/// division may be wrong on any device, so that `scale * integer` bounds the exact value.
pub(crate) const OUTWARD: f32 = 1.0 / (1 << 20) as f32;

/// Page digests in 8 bits: integers of all rows, with a scale for each 32 channels. Where the digests
/// are bounds, `minimum >= scale * m` and `maximum <= scale * M` with the largest integer `m` and the
/// smallest `M`; others are the nearest integers. A number for all channels is kept in f32, behind the
/// scales.
///
/// A head's pages lie side by side, as a head is scored by itself.
#[derive(Clone, Debug)]
pub struct Int8Digests {
    pub(crate) words: Tensor<4, Int>,
    pub(crate) scales: Tensor<3>,
}

impl Int8Digests {
    /// Those of zeros.
    pub(crate) fn new(
        digest: DigestKind,
        n_pages: usize,
        n_kv_heads: usize,
        head_dim: usize,
        device: &Device,
    ) -> Self {
        let [rows, _] = digest.shape(head_dim);
        let words = [n_kv_heads, n_pages, rows, head_dim / CHANNELS_PER_WORD];
        let scales = [n_kv_heads, n_pages, stored_scales(digest, head_dim)];
        Self {
            words: zeros(words, device, DType::I32),
            scales: zeros(scales, device, DType::F32),
        }
    }

    /// Those of a cache from elsewhere.
    ///
    /// # Shapes
    ///
    /// As [`words`](Self::words) and [`scales`](Self::scales) say.
    pub fn from_parts(words: Tensor<4, Int>, scales: Tensor<3>) -> Self {
        Self { words, scales }
    }

    /// Four channels per word, the first of them in the lowest byte, `[n_kv_heads, n_pages, rows,
    /// head_dim / 4]` in i32.
    pub fn words(&self) -> &Tensor<4, Int> {
        &self.words
    }

    /// What a channel's integers are multiplied by, `[n_kv_heads, n_pages, n_scales]` in f32, for
    /// each 32 channels; then the number for all channels, where the kind has one.
    pub fn scales(&self) -> &Tensor<3> {
        &self.scales
    }

    /// Bytes of the digests of `n` pages of a KV head.
    pub fn bytes(digest: DigestKind, n: usize, head_dim: usize) -> usize {
        let [rows, _] = digest.shape(head_dim);
        n * (rows * head_dim + stored_scales(digest, head_dim) * size_of::<f32>())
    }
}

/// Whether digests of such a head dim can be packed.
pub(crate) fn check_head_dim(head_dim: usize) -> Result<(), CacheError> {
    if head_dim.is_multiple_of(CHANNELS_PER_LOAD) {
        Ok(())
    } else {
        Err(CacheError::Int8HeadDim(head_dim))
    }
}

/// Numbers that a page has in the scales.
pub(crate) fn stored_scales(digest: DigestKind, head_dim: usize) -> usize {
    n_scales(head_dim) + usize::from(digest.layout().scalar)
}

pub(crate) fn n_scales(head_dim: usize) -> usize {
    head_dim.div_ceil(CHANNELS_PER_SCALE)
}
