use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::reader::Reader;
use crate::error::ModelError;

/// A value of a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any of the integers.
    Integer(i128),
    /// Either of the floating-point numbers.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// Several of the integers.
    Integers(Vec<i64>),
    /// Several of the floating-point numbers.
    Floats(Vec<f32>),
    /// Several of true or false.
    Bools(Vec<bool>),
    /// Several texts.
    Texts(Vec<String>),
}

/// What a GGUF file says of itself: values by key.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

/// What an element of an array takes at least.
const LEAST_BYTES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8];
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl Metadata {
    pub(super) fn read(path: &Path, reader: &mut Reader<'_>, n: usize) -> Result<Self, ModelError> {
        let mut values = BTreeMap::new();
        for _ in 0..n {
            let key = reader.text("a key of the metadata")?;
            let kind = reader.u32("a type of the metadata")?;
            let value = match kind {
                ARRAY => array(reader, &key)?,
                kind => scalar(reader, kind, &key)?,
            };
            if values.insert(key.clone(), value).is_some() {
                return Err(
                    reader.garbled(format!("expected the key `{key}` once, found it twice"))
                );
            }
        }
        Ok(Self {
            path: path.into(),
            values,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The keys and their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A text that need not be there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A number from 0 that need not be there.
    pub fn size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a whole number of at least 0", |value| match value {
            Value::Integer(number) => usize::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A token id that need not be there; a negative one counts as absent.
    pub fn id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        let id = self.typed(key, "a token id", |value| match value {
            Value::Integer(number) if *number < 0 => Some(None),
            Value::Integer(number) => u32::try_from(*number).ok().map(Some),
            _ => None,
        })?;
        // What llama.cpp writes for no token.
        Ok(id.flatten().filter(|id| *id != u32::MAX))
    }

    /// A number that need not be there.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a number", |value| match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        })
    }

    /// True or false, which need not be there.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// Several texts that need not be there.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, ModelError> {
        self.typed(key, "several texts", |value| match value {
            Value::Texts(texts) => Some(&texts[..]),
            _ => None,
        })
    }

    /// Several numbers that need not be there.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, ModelError> {
        self.typed(key, "several numbers", |value| match value {
            Value::Floats(numbers) => Some(numbers.clone()),
            Value::Integers(numbers) => Some(numbers.iter().map(|n| *n as f32).collect()),
            _ => None,
        })
    }

    /// Several whole numbers that need not be there.
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, ModelError> {
        self.typed(key, "several whole numbers", |value| match value {
            Value::Integers(numbers) => Some(&numbers[..]),
            _ => None,
        })
    }

    /// A key that must be there.
    pub fn required<'a, T>(
        &'a self,
        key: &str,
        get: impl FnOnce(&'a Self, &str) -> Result<Option<T>, ModelError>,
    ) -> Result<T, ModelError> {
        get(self, key)?.ok_or_else(|| ModelError::MissingField {
            path: self.path.clone(),
            field: key.into(),
        })
    }

    /// An error about the value of a key.
    pub fn invalid(&self, key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::Field {
            path: self.path.clone(),
            field: key.into(),
            problem: problem.into(),
        }
    }

    /// An error about something that is not implemented.
    pub fn unsupported(
        &self,
        what: &'static str,
        found: impl Into<String>,
        supported: &'static str,
    ) -> ModelError {
        ModelError::Unsupported {
            path: self.path.clone(),
            what,
            found: found.into(),
            supported,
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let value = get(value);
        let invalid = || self.invalid(key, format!("expected {expected}, found something else"));
        value.map(Some).ok_or_else(invalid)
    }
}

fn scalar(reader: &mut Reader<'_>, kind: u32, key: &str) -> Result<Value, ModelError> {
    Ok(match kind {
        BOOL => Value::Bool(reader.array::<1>(key)? != [0]),
        TEXT => Value::Text(reader.text(key)?),
        6 => Value::Float(f32::from_le_bytes(reader.array(key)?).into()),
        12 => Value::Float(f64::from_le_bytes(reader.array(key)?)),
        kind => Value::Integer(integer(reader, kind, key)?),
    })
}

fn integer(reader: &mut Reader<'_>, kind: u32, key: &str) -> Result<i128, ModelError> {
    Ok(match kind {
        0 => u8::from_le_bytes(reader.array(key)?).into(),
        1 => i8::from_le_bytes(reader.array(key)?).into(),
        2 => u16::from_le_bytes(reader.array(key)?).into(),
        3 => i16::from_le_bytes(reader.array(key)?).into(),
        4 => u32::from_le_bytes(reader.array(key)?).into(),
        5 => i32::from_le_bytes(reader.array(key)?).into(),
        10 => u64::from_le_bytes(reader.array(key)?).into(),
        11 => i64::from_le_bytes(reader.array(key)?).into(),
        kind => {
            return Err(reader.garbled(format!(
                "expected one of the 13 types of metadata for `{key}`, found {kind}"
            )));
        }
    })
}

fn array(reader: &mut Reader<'_>, key: &str) -> Result<Value, ModelError> {
    let kind = reader.u32(key)?;
    let Some(least_bytes) = LEAST_BYTES.get(kind as usize).filter(|_| kind != ARRAY) else {
        return Err(reader.garbled(format!(
            "expected an array of numbers or texts for `{key}`, found one of type {kind}"
        )));
    };
    let n = reader.count(*least_bytes, key)?;
    Ok(match kind {
        BOOL => Value::Bools(
            (0..n)
                .map(|_| Ok(reader.array::<1>(key)? != [0]))
                .collect::<Result<_, ModelError>>()?,
        ),
        TEXT => Value::Texts((0..n).map(|_| reader.text(key)).collect::<Result<_, _>>()?),
        6 | 12 => Value::Floats(
            (0..n)
                .map(|_| match kind {
                    6 => Ok(f32::from_le_bytes(reader.array(key)?)),
                    _ => Ok(f64::from_le_bytes(reader.array(key)?) as f32),
                })
                .collect::<Result<_, ModelError>>()?,
        ),
        kind => {
            let number = |reader: &mut Reader<'_>| {
                let number = integer(reader, kind, key)?;
                i64::try_from(number)
                    .map_err(|_| reader.garbled(format!("a number of `{key}` is too large")))
            };
            Value::Integers((0..n).map(|_| number(reader)).collect::<Result<_, _>>()?)
        }
    })
}
