//! The kinds by name. A kind that is added here is one that every program knows.

use core::{fmt, str::FromStr};

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Digest, DigestLayout};
use crate::FixedPoint;

/// One line per kind: its type, the folder that it is in, its name on command lines and what it keeps.
macro_rules! digests {
    ($($kind:ident in $folder:ident = $name:literal, $about:literal;)+) => {
        /// What a page's digest keeps of its keys, and so what scores the page.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum DigestKind {
            $(#[doc = $about] #[serde(rename = $name)] $kind,)+
        }

        impl DigestKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The name by which programs know it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name),+ }
            }

            /// What it keeps, in a line.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$kind => $about),+ }
            }
        }

        digests!(@with ($) $($kind in $folder)+);
    };
    (@with ($d:tt) $($kind:ident in $folder:ident)+) => {
        /// Runs a piece of code with the type of a kind.
        macro_rules! with_digest {
            ($d digest:expr, $d kind:ident => $d body:expr) => {
                match $d digest {
                    $($crate::digest::DigestKind::$kind => {
                        type $d kind = $crate::digest::$folder::$kind;
                        $d body
                    })+
                }
            };
        }
        pub(crate) use with_digest;
    };
}

digests! {
    MinMax in min_max = "min-max", "Minimum and maximum of each channel, as in the paper: the score is a bound";
    MeanVar in mean_var = "mean-var", "Mean and standard deviation of each channel";
    MeanScalar in mean_scalar = "mean-scalar", "Mean of each channel and one standard deviation: half the bytes";
    Mean in mean = "mean", "Mean of each channel: half the bytes";
}

/// The kind that loses least on real text for its bytes, with [small pages](crate::cache::PagedKvCacheConfig::PAGE_SIZE).
impl Default for DigestKind {
    fn default() -> Self {
        Self::MeanScalar
    }
}

impl DigestKind {
    pub(crate) fn layout(self) -> DigestLayout {
        with_digest!(self, D => DigestLayout::of::<D>())
    }

    /// Shape of a page's digest of one head: rows and channels.
    pub fn shape(self, head_dim: usize) -> [usize; 2] {
        let layout = self.layout();
        [layout.rows, layout.channels(head_dim)]
    }

    /// The digests of pages with these keys, in their dtype.
    ///
    /// # Shapes
    ///
    /// - keys: `[n_pages, n_kv_heads, rows, head_dim]`
    /// - output: `[n_pages, n_kv_heads, rows, channels]` of [this shape](Self::shape)
    pub fn fold(self, keys: Tensor<4>) -> Tensor<4> {
        let dtype = keys.dtype();
        let keys = keys.cast(DType::F32);
        with_digest!(self, D => <D as Digest>::fold(keys)).cast(dtype)
    }

    /// Scores of pages for queries, computed in tensor operations.
    ///
    /// # Shapes
    ///
    /// - query: `[n_kv_heads, group, head_dim]`
    /// - digests: `[n_kv_heads, n_pages, rows, channels]` of [this shape](Self::shape)
    /// - output: `[n_kv_heads, group, n_pages]` in f32
    pub fn scores(
        self,
        query: Tensor<3>,
        digests: Tensor<4>,
        deviations: Option<FixedPoint>,
    ) -> Tensor<3> {
        let deviations = self.deviations_or(deviations).to_f32();
        let (query, digests) = (query.cast(DType::F32), digests.cast(DType::F32));
        with_digest!(self, D => D::scores(query, digests, deviations))
    }

    /// What a score multiplies the deviations of the digest by, unless something else is asked for; none
    /// where the digest has none.
    pub fn deviations(self) -> Option<FixedPoint> {
        with_digest!(self, D => <D as Digest>::DEVIATIONS)
    }

    /// What a score multiplies the deviations of the digest by.
    pub(crate) fn deviations_or(self, asked: Option<FixedPoint>) -> FixedPoint {
        let own = self.deviations();
        // One number where it has no meaning, so that kernels are compiled once.
        own.map_or(FixedPoint::whole(0), |own| asked.unwrap_or(own))
    }

    /// Whether a page's score is at least the product of the query with each of its keys.
    pub fn is_bound(self) -> bool {
        with_digest!(self, D => <D as Digest>::IS_BOUND)
    }
}

impl fmt::Display for DigestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no kind of digest has.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[error("digest: expected one of {}, found {found:?}", names())]
pub struct UnknownDigest {
    /// The name that was given.
    pub found: String,
}

fn names() -> String {
    let names = DigestKind::ALL.iter().map(|kind| kind.name());
    names.collect::<Vec<_>>().join(", ")
}

impl FromStr for DigestKind {
    type Err = UnknownDigest;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let kind = Self::ALL.iter().find(|kind| kind.name() == name);
        kind.copied().ok_or_else(|| UnknownDigest {
            found: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for &kind in DigestKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(kind.to_string(), kind.name());
        }
        let error = "no-kind".parse::<DigestKind>().unwrap_err().to_string();
        assert!(
            error.starts_with("digest: expected one of min-max, mean-var"),
            "{error}"
        );
        assert!(error.ends_with("found \"no-kind\""), "{error}");
    }

    #[test]
    fn shapes_are_rows_and_channels() {
        for (kind, expected) in [
            (DigestKind::MinMax, [2, 64]),
            (DigestKind::MeanVar, [2, 64]),
            (DigestKind::MeanScalar, [1, 72]),
            (DigestKind::Mean, [1, 64]),
        ] {
            assert_eq!(kind.shape(64), expected, "{kind}");
        }
    }
}
