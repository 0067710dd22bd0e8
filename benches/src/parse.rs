//! Values of options that are more than a number.

use std::{fmt, str::FromStr};

use burn::tensor::DType;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use quest_burn::{
    cache::{DigestStorage, KvStorage},
    digest::DigestKind,
};

/// Query and KV heads, written `32:8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
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

/// The kinds of page digests that the library knows.
pub fn digest_kinds() -> impl TypedValueParser<Value = DigestKind> {
    let names = DigestKind::ALL
        .iter()
        .map(|kind| PossibleValue::new(kind.name()).help(kind.about()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<DigestKind>())
}

/// The ways to store page digests that the library knows.
pub fn digest_storages() -> impl TypedValueParser<Value = DigestStorage> {
    let names = DigestStorage::ALL
        .iter()
        .map(|form| PossibleValue::new(form.name()).help(form.about()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<DigestStorage>())
}

/// The numbers that keys and values can be kept in.
pub fn kv_storages() -> impl TypedValueParser<Value = KvStorage> {
    let names = KvStorage::ALL
        .iter()
        .map(|form| PossibleValue::new(form.name()).help(form.about()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<KvStorage>())
}

/// An element type by its name.
pub(crate) fn float_dtype(text: &str) -> Result<DType, String> {
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let mut dtypes = dtypes.into_iter();
    dtypes
        .find(|dtype| dtype.name() == text)
        .ok_or_else(|| format!("expected f32, f16 or bf16, found {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
