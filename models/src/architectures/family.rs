use serde_json::{Map, Value};

use crate::{
    config::{Blocks, fields::Fields},
    error::ModelError,
    gguf::Keys,
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
    /// The field with the channels inside a feed-forward block without experts.
    pub d_ff: &'static str,
    /// Whether it may be that not all channels of a head are rotated.
    pub is_rotated_in_part: bool,
    /// Parts of tensors' names that checkpoints spell in another way, and this module's spelling.
    pub renamed: &'static [(&'static str, &'static str)],
    /// What the names begin with of tensors that no text needs.
    pub left_out: &'static [&'static str],
}

/// What an architecture is in GGUF files.
pub(crate) struct GgufFamily {
    /// ggml's name, which architectures may share.
    pub name: &'static str,
    /// Whether a file of that name is of this architecture.
    pub is_it: fn(&Keys<'_>) -> Result<bool, ModelError>,
    /// Whether rows of queries and keys are in another order than Hugging Face's.
    pub is_permuted: bool,
    /// Parts of a layer that are not those of Llama: ggml's names and Hugging Face's, in which a star
    /// stands for the number of an expert.
    pub parts: &'static [(&'static str, &'static str)],
    /// Fields of a `config.json` that not every architecture has; they go before the others.
    pub fields: fn(&Keys<'_>) -> Result<Value, ModelError>,
}

impl GgufFamily {
    /// An architecture that has a name for itself and nothing of its own.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self {
            name,
            is_it: |_| Ok(true),
            is_permuted: false,
            parts: &[],
            fields: |keys| keys.without_windows(),
        }
    }
}

impl Family {
    /// The fields with those that are absent.
    pub(crate) fn complete<'a>(&self, fields: Fields<'a>) -> Fields<'a> {
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
