//! The kinds by name. A kind that is added here is one that every program knows.

use core::{fmt, str::FromStr};

use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Deviations, Digest, DigestLayout};

/// One line per kind: its type, its name on command lines and what it keeps.
macro_rules! digests {
    ($($kind:ident = $name:literal, $about:literal;)+) => {
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

        digests!(@with ($) $($kind)+);
    };
    (@with ($d:tt) $($kind:ident)+) => {
        /// Runs a piece of code with the type of a kind.
        macro_rules! with_digest {
            ($d digest:expr, $d kind:ident => $d body:expr) => {
                match $d digest {
                    $($crate::digest::DigestKind::$kind => {
                        type $d kind = $crate::digest::kinds::$kind;
                        $d body
                    })+
                }
            };
        }
        pub(crate) use with_digest;
    };
}

digests! {
    MinMax = "min-max", "Minimum and maximum of each channel, as in the paper: the score is a bound";
    MeanVar = "mean-var", "Mean and standard deviation of each channel";
    MeanScalar = "mean-scalar", "Mean of each channel and one standard deviation: half the bytes";
    Mean = "mean", "Mean of each channel: half the bytes";
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

    /// What a score multiplies the deviations of the digest by, unless something else is asked for; none
    /// where the digest has none.
    pub fn deviations(self) -> Option<Deviations> {
        with_digest!(self, D => <D as Digest>::DEVIATIONS)
    }

    /// What a score multiplies the deviations of the digest by.
    pub(crate) fn deviations_or(self, asked: Option<Deviations>) -> Deviations {
        let own = self.deviations();
        // One number where it has no meaning, so that kernels are compiled once.
        own.map_or(Deviations::whole(0), |own| asked.unwrap_or(own))
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
        assert_eq!(
            "median".parse::<DigestKind>().unwrap_err().to_string(),
            "digest: expected one of min-max, mean-var, mean-scalar, mean, found \"median\""
        );
    }

    #[test]
    fn shapes_are_rows_and_channels() {
        let shapes = DigestKind::ALL.iter().map(|kind| kind.shape(64));
        assert_eq!(
            shapes.collect::<Vec<_>>(),
            [[2, 64], [2, 64], [1, 72], [1, 64]]
        );
    }
}
