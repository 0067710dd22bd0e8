//! Values of options that are more than a number.

use std::{fmt, str::FromStr};

use burn::tensor::DType;
use quest_burn::{
    cache::{CacheError, DigestStorage},
    digest::{DigestKind, UnknownDigest},
};

/// Query and KV heads, written `32:8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// KV heads.
    pub kv: usize,
}

impl FromStr for Heads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected query heads and KV heads as in 32:8, found {text}");
        let (query, kv) = text.split_once(':').ok_or_else(expected)?;
        let (query, kv) = (query.parse::<usize>(), kv.parse::<usize>());
        match (query, kv) {
            (Ok(query), Ok(kv)) if kv > 0 && query > 0 && query.is_multiple_of(kv) => {
                Ok(Self { query, kv })
            }
            (Ok(_), Ok(_)) => Err(format!(
                "expected query heads that are a multiple of the KV heads, found {text}"
            )),
            _ => Err(expected()),
        }
    }
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.query, self.kv)
    }
}

/// A kind of page digests, by its name.
pub fn digest(name: &str) -> Result<DigestKind, UnknownDigest> {
    name.parse::<DigestKind>()
}

/// A way to store page digests, by its name.
pub fn digests(name: &str) -> Result<DigestStorage, CacheError> {
    name.parse::<DigestStorage>()
}

/// A number of tokens: `4096`, `4K`, `1M`.
pub fn tokens(text: &str) -> Result<usize, String> {
    binary(text, &[("K", 1 << 10), ("M", 1 << 20)])
        .filter(|&n| (1..=i32::MAX as u64).contains(&n))
        .map(|n| n as usize)
        .ok_or_else(|| format!("expected a number of tokens such as 4096, 4K or 1M, found {text}"))
}

/// A number of sequences.
pub fn sequences(text: &str) -> Result<usize, String> {
    tokens(text).map_err(|_| format!("expected a number of sequences of at least 1, found {text}"))
}

/// A number of bytes: `60GB` and `60G` are 60 * 2^30.
pub fn bytes(text: &str) -> Result<u64, String> {
    let unit = text.trim_end_matches('B');
    binary(unit, &[("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)])
        .filter(|&n| n > 0)
        .ok_or_else(|| format!("expected a number of bytes such as 512MB or 60GB, found {text}"))
}

fn binary(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit = units.iter().find_map(|(name, factor)| {
        let number = text.strip_suffix(name)?;
        Some((number, *factor))
    });
    let (number, factor) = unit.unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// An element type by its name.
pub fn float_dtype(text: &str) -> Result<DType, String> {
    match text {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(format!("expected f32, f16 or bf16, found {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_units() {
        assert_eq!(tokens("4096"), Ok(4096));
        assert_eq!(tokens("32K"), Ok(32768));
        assert_eq!(tokens("1M"), Ok(1 << 20));
        assert_eq!(bytes("60GB"), Ok(60 << 30));
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("100"), Ok(100));
    }

    #[test]
    fn other_sizes_are_refused_with_what_was_found() {
        for bad in ["", "0", "K", "-1", "1.5K", "3T", "4096M"] {
            assert!(tokens(bad).unwrap_err().ends_with(bad), "{bad}");
            assert!(
                sequences(bad)
                    .unwrap_err()
                    .starts_with("expected a number of sequences")
            );
        }
        for bad in ["", "0GB", "GB", "x", "99999999999GB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn heads_must_form_groups() {
        assert_eq!("32:8".parse(), Ok(Heads { query: 32, kv: 8 }));
        assert_eq!("8:1".parse::<Heads>().unwrap().to_string(), "8:1");
        for bad in ["32", "32:5", "0:1", "8:0", "8:x", "8:2:1"] {
            assert!(bad.parse::<Heads>().unwrap_err().ends_with(bad), "{bad}");
        }
    }

    #[test]
    fn dtypes_are_named_as_on_the_command_line() {
        assert_eq!(float_dtype("bf16"), Ok(DType::BF16));
        assert_eq!(
            float_dtype("int4").unwrap_err(),
            "expected f32, f16 or bf16, found int4"
        );
    }
}
