use serde_json::{Map, Value};

use crate::{
    config::{Blocks, fields::Fields},
    error::ModelError,
};

/// What sets an architecture apart: its names, what an absent field means, and its blocks.
pub(crate) struct Family {
    /// The names of transformers' classes.
    pub classes: &'static [&'static str],
    /// The values of `model_type`.
    pub model_types: &'static [&'static str],
    /// What it is in GGUF files, where those are read.
    pub gguf: Option<GgufFamily>,
    /// What transformers takes absent fields for; a field that is null stays so.
    pub absent: fn() -> Value,
    /// What its blocks are made of.
    pub blocks: fn(&Fields<'_>) -> Result<Blocks, ModelError>,
    /// Parts of tensors' names that checkpoints spell in another way, and this module's spelling.
    pub renamed: &'static [(&'static str, &'static str)],
    /// What the names begin with of tensors that no text needs.
    pub left_out: &'static [&'static str],
}

/// What an architecture is in GGUF files.
pub(crate) struct GgufFamily {
    /// ggml's name.
    pub name: &'static str,
    /// Whether rows of queries and keys are in another order than Hugging Face's.
    pub is_permuted: bool,
}

impl Family {
    /// The fields with those that are absent.
    pub fn complete<'a>(&self, fields: Fields<'a>) -> Fields<'a> {
        match (self.absent)() {
            Value::Object(absent) => fields.with_absent(absent),
            _ => fields.with_absent(Map::new()),
        }
    }
}

/// A field that is true or false, and false where it is absent.
pub(super) fn flag(fields: &Fields<'_>, name: &str) -> Result<bool, ModelError> {
    Ok(fields.optional(name)?.unwrap_or(false))
}
