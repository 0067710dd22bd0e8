use serde_json::{Value as Json, json};

use super::{
    GgufCheckpoint,
    metadata::{Metadata, Value},
};
use crate::{config::hugging_face::MAX_LAYERS, error::ModelError};

/// The keys of an architecture, which begin with its name.
pub(crate) struct Keys<'a> {
    checkpoint: &'a GgufCheckpoint,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// Of the architecture that a file names.
    pub(super) fn new(checkpoint: &'a GgufCheckpoint) -> Result<Self, ModelError> {
        let metadata = checkpoint.metadata();
        Ok(Self {
            checkpoint,
            architecture: metadata.required("general.architecture", Metadata::text)?,
        })
    }

    /// The name of the architecture.
    pub(super) fn architecture(&self) -> &'a str {
        self.architecture
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(crate) fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingField {
            path: self.metadata().path().into(),
            field: self.key(name),
        }
    }

    pub(crate) fn size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.metadata().size(&self.key(name))
    }

    pub(crate) fn required(&self, name: &str) -> Result<usize, ModelError> {
        self.size(name)?.ok_or_else(|| self.missing(name))
    }

    /// A number as the shortest one that rounds to it in single precision, in which it is stored.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        let number = self.metadata().number(&self.key(name))?;
        Ok(number.map(|number| (number as f32).to_string().parse().unwrap_or(number)))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.checkpoint.metadata().text(&self.key(name))
    }

    /// A number of all layers, which may be given for each of them.
    pub(crate) fn one(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let key = self.key(name);
        let metadata = self.metadata();
        let Some(Value::Integers(numbers)) = metadata.get(&key) else {
            return metadata.size(&key);
        };
        match numbers.first() {
            Some(first) if numbers.iter().all(|number| number == first) => {
                let invalid = || metadata.invalid(&key, format!("expected a size, found {first}"));
                usize::try_from(*first).map(Some).map_err(|_| invalid())
            }
            _ => Err(metadata.invalid(&key, "expected the same number for all layers")),
        }
    }

    /// Query heads of a layer.
    pub(crate) fn n_heads(&self) -> Result<usize, ModelError> {
        const NAME: &str = "attention.head_count";
        match self.one(NAME)? {
            Some(0) => Err(self
                .metadata()
                .invalid(&self.key(NAME), "expected at least 1, found 0")),
            Some(n_heads) => Ok(n_heads),
            None => Err(self.missing(NAME)),
        }
    }

    /// KV heads of a layer.
    pub(crate) fn n_kv_heads(&self) -> Result<usize, ModelError> {
        match self.one("attention.head_count_kv")? {
            Some(n_kv_heads) => Ok(n_kv_heads),
            None => self.n_heads(),
        }
    }

    /// Channels of a head.
    pub(crate) fn head_dim(&self) -> Result<usize, ModelError> {
        const NAME: &str = "attention.key_length";
        if let Some(head_dim) = self.size(NAME)? {
            return Ok(head_dim);
        }
        let (d_model, n_heads) = (self.required("embedding_length")?, self.n_heads()?);
        match d_model.is_multiple_of(n_heads) {
            true => Ok(d_model / n_heads),
            false => Err(self.missing(NAME)),
        }
    }

    /// Whether layers have experts.
    pub(crate) fn has_experts(&self) -> Result<bool, ModelError> {
        Ok(self
            .size("expert_count")?
            .is_some_and(|experts| experts > 0))
    }

    /// Tokens of a sliding window, where there is one.
    pub(crate) fn window(&self) -> Result<Option<usize>, ModelError> {
        let window = self.size("attention.sliding_window")?;
        Ok(window.filter(|window| *window > 0))
    }

    /// Whether layers have a sliding window.
    pub(crate) fn has_windows(&self) -> Result<bool, ModelError> {
        Ok(self.window()?.is_some())
    }

    /// No fields, of an architecture that no file with a sliding window is known of.
    pub(crate) fn without_windows(&self) -> Result<Json, ModelError> {
        match self.window()? {
            None => Ok(json!({})),
            Some(window) => {
                Err(self
                    .metadata()
                    .unsupported("sliding window", window.to_string(), "none"))
            }
        }
    }

    /// `layer_types` of a model with windows in all layers but every `period`-th, unless the file says
    /// otherwise.
    pub(crate) fn layer_types(&self, period: usize) -> Result<Vec<&'static str>, ModelError> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        let n_layers = self.layers()?;
        let has_window = self.has_windows()?;
        let is_local = match self.metadata().get(&self.key(PATTERN)) {
            Some(Value::Bools(layers)) if layers.len() >= n_layers => layers.clone(),
            _ => {
                let period = self.size(PATTERN)?.unwrap_or(period);
                let is_local = |layer: usize| period == 0 || !(layer + 1).is_multiple_of(period);
                (0..n_layers).map(is_local).collect()
            }
        };
        let layers = is_local.into_iter().take(n_layers);
        Ok(layers
            .map(|is_local| match is_local && has_window {
                true => "sliding_attention",
                false => "full_attention",
            })
            .collect())
    }

    /// The layers that lack a tensor.
    pub(crate) fn layers_without(&self, tensor: &str) -> Result<Vec<usize>, ModelError> {
        let n_layers = self.layers()?;
        let lacks = |layer: &usize| !self.checkpoint.has(&format!("blk.{layer}.{tensor}"));
        Ok((0..n_layers).filter(lacks).collect())
    }

    /// Layers, but no more than a configuration may name: a list is made of them before they are checked.
    fn layers(&self) -> Result<usize, ModelError> {
        Ok(self.required("block_count")?.min(MAX_LAYERS))
    }

    fn metadata(&self) -> &'a Metadata {
        self.checkpoint.metadata()
    }
}
