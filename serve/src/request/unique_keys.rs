//! JSON in which no object has a key twice: of two values readers take the one or the other.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// A value; the error of a key that is there twice names it.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Unique>(bytes).map(|Unique(value)| value)
}

struct Unique(Value);

struct UniqueVisitor;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if fields.contains_key(&key) {
                let shown = super::params::shown(&Value::String(key));
                let problem = format!("expected each key once, found {shown} again");
                return Err(A::Error::custom(problem));
            }
            let Unique(value) = map.next_value()?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_serde_json_makes_of_it() {
        for text in [
            r#"{"a": [1, -2, 1.5, 1e300, 18446744073709551615, "\u00e9\n", true, null], "b": {"a": {}}}"#,
            "[]",
            "\"text\"",
            " 3 ",
        ] {
            let value = serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(parse(text.as_bytes()).unwrap(), value);
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        for text in [
            "",
            "{",
            "{}{}",
            "[1,]",
            "1e400",
            "{\"a\" 1}",
            "\u{0}",
            &*deep,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_named_wherever_it_is() {
        for text in [
            r#"{"n": 1, "n": 1}"#,
            r#"{"a": [{"n": 1, "b": 2, "n": null}]}"#,
            r#"{"n": 1, "\u006e": 2}"#,
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            let message = error.to_string();
            assert!(error.is_data(), "{message}");
            let problem = "expected each key once, found \"n\" again at line 1";
            assert!(message.starts_with(problem), "{message}");
        }
    }
}
