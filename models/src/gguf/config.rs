//! Metadata as the fields of a `config.json`, which are then read as those of a folder are: what an
//! architecture needs, and what is refused, stands in one place.

use quest_burn_linear::blocks::BlockFormat;
use serde_json::{Map, Value as Json, json};

use super::{
    GgufCheckpoint,
    metadata::{Metadata, Value},
    rope, tokenizer,
};
use crate::{
    architectures::{Architecture, GgufFamily},
    config::{ModelConfig, fields::Fields, hugging_face},
    error::ModelError,
};

/// The architecture of a model.
pub fn architecture(
    checkpoint: &GgufCheckpoint,
) -> Result<(Architecture, &'static GgufFamily), ModelError> {
    const KEY: &str = "general.architecture";
    let metadata = checkpoint.metadata();
    let name = metadata.required(KEY, Metadata::text)?;
    let supported = Architecture::supported_in_gguf();
    Architecture::from_gguf(name)
        .ok_or_else(|| metadata.unsupported("architecture", name, supported))
}

/// Query heads and KV heads of a layer.
pub fn heads(checkpoint: &GgufCheckpoint) -> Result<(usize, usize), ModelError> {
    let keys = Keys::new(checkpoint)?;
    let n_heads = keys.one("attention.head_count")?;
    let n_heads = n_heads.ok_or_else(|| keys.missing("attention.head_count"))?;
    let n_kv_heads = keys.one("attention.head_count_kv")?.unwrap_or(n_heads);
    Ok((n_heads, n_kv_heads))
}

/// The configuration of a model.
pub fn read(checkpoint: &GgufCheckpoint) -> Result<ModelConfig, ModelError> {
    let fields = translate(checkpoint)?;
    let fields = Fields::from_map(checkpoint.metadata().path(), fields);
    let mut config = hugging_face::parse(fields)?;
    let blocks = &mut config.blocks;
    // Biases are there or not, whatever the architecture usually has.
    blocks.qkv_bias = checkpoint.has("blk.0.attn_q.bias");
    blocks.output_bias = checkpoint.has("blk.0.attn_output.bias");
    blocks.mlp_bias = checkpoint.has("blk.0.ffn_up.bias");
    config.stop_token_ids = tokenizer::stop_ids(checkpoint.metadata())?;
    Ok(config)
}

/// The fields of a `config.json` that says the same.
pub fn translate(checkpoint: &GgufCheckpoint) -> Result<Map<String, Json>, ModelError> {
    let keys = Keys::new(checkpoint)?;
    let metadata = checkpoint.metadata();
    let (architecture, _) = architecture(checkpoint)?;
    let family = architecture.family();
    if let Some(experts) = keys.size("expert_count")?.filter(|experts| *experts > 0) {
        return Err(metadata.unsupported("number of experts", experts.to_string(), "none"));
    }
    let (n_heads, n_kv_heads) = heads(checkpoint)?;
    let (vocab_size, d_model) = embedding(checkpoint)?;
    let stated = keys.required("embedding_length")?;
    if stated != d_model {
        let problem = format!("expected {d_model}, as the embedding has, found {stated}");
        return Err(metadata.invalid(&keys.key("embedding_length"), problem));
    }
    let head_dim = keys.size("attention.key_length")?;
    let head_dim = match head_dim {
        Some(head_dim) => head_dim,
        None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
        None => return Err(keys.missing("attention.key_length")),
    };
    for (name, found) in [
        (
            "attention.value_length",
            keys.size("attention.value_length")?,
        ),
        ("rope.dimension_count", keys.size("rope.dimension_count")?),
    ] {
        if let Some(found) = found.filter(|found| *found != head_dim) {
            let problem = format!("expected {head_dim} channels as keys have, found {found}");
            return Err(metadata.invalid(&keys.key(name), problem));
        }
    }
    let epsilon = keys.number("attention.layer_norm_rms_epsilon")?;
    let mut fields = json!({
        "architectures": [family.classes[0]],
        "model_type": family.model_types[0],
        "hidden_act": "silu",
        "vocab_size": vocab_size,
        "hidden_size": d_model,
        "intermediate_size": keys
            .one("feed_forward_length")?
            .ok_or_else(|| keys.missing("feed_forward_length"))?,
        "num_hidden_layers": keys.required("block_count")?,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": keys.required("context_length")?,
        // Stored in single precision, while folders write the shortest number that is meant.
        "rms_norm_eps": epsilon.map(shortest),
        "tie_word_embeddings": !checkpoint.has("output.weight"),
        "attention_bias": checkpoint.has("blk.0.attn_q.bias"),
        "mlp_bias": checkpoint.has("blk.0.ffn_up.bias"),
        "sliding_window": null,
    });
    let fields = fields.as_object_mut().expect("it was made above");
    if let Some(window) = keys
        .size("attention.sliding_window")?
        .filter(|window| *window > 0)
    {
        fields.insert("architectures".into(), json!(["MistralForCausalLM"]));
        fields.insert("model_type".into(), json!("mistral"));
        fields.insert("sliding_window".into(), json!(window));
        if architecture != Architecture::Llama {
            return Err(metadata.unsupported("sliding window", window.to_string(), "none"));
        }
    }
    if let Some(dtype) = dtype(checkpoint) {
        fields.insert("torch_dtype".into(), json!(dtype));
    }
    fields.extend(rope::fields(checkpoint, &keys, head_dim)?);
    for (name, key) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = metadata.id(key)? {
            fields.insert(name.into(), json!(id));
        }
    }
    Ok(std::mem::take(fields))
}

/// A number that was rounded to single precision, as the shortest one that rounds to the same.
pub(super) fn shortest(number: f64) -> f64 {
    (number as f32).to_string().parse().unwrap_or(number)
}

/// Rows and columns of the embedding.
fn embedding(checkpoint: &GgufCheckpoint) -> Result<(usize, usize), ModelError> {
    const NAME: &str = "token_embd.weight";
    let missing = || {
        let problem = format!("expected a tensor `{NAME}`, found none");
        ModelError::garbled(checkpoint.metadata().path(), super::NAME, problem)
    };
    let (_, tensor) = checkpoint.tensor(NAME).ok_or_else(missing)?;
    match tensor.shape[..] {
        [vocab_size, d_model] => Ok((vocab_size, d_model)),
        _ => Err(missing()),
    }
}

/// The dtype of weights that are not in blocks.
fn dtype(checkpoint: &GgufCheckpoint) -> Option<&'static str> {
    let (_, tensor) = checkpoint.tensor("blk.0.attn_q.weight")?;
    match tensor.format {
        BlockFormat::F32 => Some("float32"),
        BlockFormat::F16 => Some("float16"),
        BlockFormat::BF16 => Some("bfloat16"),
        _ => None,
    }
}

/// The keys of an architecture, which begin with its name.
pub struct Keys<'a> {
    checkpoint: &'a GgufCheckpoint,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    fn new(checkpoint: &'a GgufCheckpoint) -> Result<Self, ModelError> {
        Ok(Self {
            checkpoint,
            architecture: architecture(checkpoint)?.1.name,
        })
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub fn missing(&self, name: &str) -> ModelError {
        ModelError::MissingField {
            path: self.checkpoint.metadata().path().into(),
            field: self.key(name),
        }
    }

    pub fn size(&self, name: &str) -> Result<Option<usize>, ModelError> {
        self.checkpoint.metadata().size(&self.key(name))
    }

    pub fn required(&self, name: &str) -> Result<usize, ModelError> {
        self.size(name)?.ok_or_else(|| self.missing(name))
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        self.checkpoint.metadata().number(&self.key(name))
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        self.checkpoint.metadata().text(&self.key(name))
    }

    /// A number of all layers, which may be given for each of them.
    fn one(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let key = self.key(name);
        let metadata = self.checkpoint.metadata();
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
}
