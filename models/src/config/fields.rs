use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{error::ModelError, source::read_file};

/// More than any model has of anything; what is beyond is a mistake that would overflow later.
pub(crate) const MAX_SIZE: usize = 1 << 24;

/// A JSON object, read field by field, so that errors can name the file and the field.
///
/// Fields that are null count as absent, as they do in Python.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// The fields that the object is nested in, each with a dot after it.
    prefix: String,
    fields: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Reads a file.
    pub(crate) fn read(path: &'a Path) -> Result<Self, ModelError> {
        Self::parse(path, &read_file(path)?)
    }

    /// Takes the content of a file apart.
    pub(crate) fn parse(path: &'a Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let fields = serde_json::from_slice(bytes).map_err(|source| ModelError::Json {
            path: path.into(),
            source,
        })?;
        Ok(Self::from_map(path, fields))
    }

    /// The fields that a file says in another way.
    pub(crate) fn from_map(path: &'a Path, fields: Map<String, Value>) -> Self {
        Self {
            path,
            prefix: String::new(),
            fields,
        }
    }

    /// With fields for those that are absent; one that is null is not.
    pub(crate) fn with_absent(mut self, absent: Map<String, Value>) -> Self {
        for (name, value) in absent {
            self.fields.entry(name).or_insert(value);
        }
        self
    }

    /// With the fields of an object in one of them, which go before its own.
    pub(crate) fn flattened(mut self, name: &str) -> Result<Self, ModelError> {
        if let Some(inner) = self.object(name)? {
            self.fields.remove(name);
            self.fields.extend(inner.fields);
        }
        Ok(self)
    }

    /// The file that the object is in.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// Whether a field has a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// The value of a field that must be there.
    pub(crate) fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T, ModelError> {
        self.optional(name)?
            .ok_or_else(|| ModelError::MissingField {
                path: self.path.into(),
                field: format!("{}{name}", self.prefix),
            })
    }

    /// The value of a field that need not be there.
    pub(crate) fn optional<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ModelError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|problem| self.invalid(name, problem.to_string())),
        }
    }

    /// The objects that are in a field which need not be there.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ModelError> {
        let fields = self.optional::<Map<_, _>>(name)?;
        Ok(fields.map(|fields| Fields {
            path: self.path,
            prefix: format!("{}{name}.", self.prefix),
            fields,
        }))
    }

    /// A count of something, from one to `most`, that must be there.
    pub(crate) fn size(&self, name: &str, most: usize) -> Result<usize, ModelError> {
        self.optional_size(name, most)?
            .ok_or_else(|| self.missing(name))
    }

    /// A count of something, from one to `most`, that need not be there.
    pub(crate) fn optional_size(
        &self,
        name: &str,
        most: usize,
    ) -> Result<Option<usize>, ModelError> {
        let size = self.optional::<usize>(name)?;
        match size {
            Some(size) if size == 0 || size > most => Err(self.invalid(
                name,
                format!("expected a number from 1 to {most}, found {size}"),
            )),
            _ => Ok(size),
        }
    }

    /// A token id that need not be there; a negative one stands for none.
    pub(crate) fn token_id(&self, name: &str) -> Result<Option<u32>, ModelError> {
        let id = self.optional::<i64>(name)?.filter(|id| *id >= 0);
        let too_large = |_| self.invalid(name, "expected a token id of 32 bits".into());
        id.map(|id| u32::try_from(id).map_err(too_large))
            .transpose()
    }

    /// The names of the fields that hold objects.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &str> {
        let objects = self.fields.iter().filter(|(_, value)| value.is_object());
        objects.map(|(name, _)| name.as_str())
    }

    /// Whether there is no field.
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// An error about a field that is not there.
    pub(crate) fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingField {
            path: self.path.into(),
            field: format!("{}{name}", self.prefix),
        }
    }

    /// An error about a field's value.
    pub(crate) fn invalid(&self, name: &str, problem: String) -> ModelError {
        ModelError::Field {
            path: self.path.into(),
            field: format!("{}{name}", self.prefix),
            problem,
        }
    }

    /// An error about something that is not implemented.
    pub(crate) fn unsupported(
        &self,
        what: &'static str,
        found: impl Into<String>,
        supported: &'static str,
    ) -> ModelError {
        ModelError::Unsupported {
            path: self.path.into(),
            what,
            found: found.into(),
            supported,
        }
    }
}
