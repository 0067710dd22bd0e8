//! Metadata as the fields of a `config.json`, which are then read as those of a folder are: what an
//! architecture needs, and what is refused, stands in one place.

use quest_burn_linear::blocks::BlockFormat;
use serde_json::{Map, Value as Json, json};

use super::{GgufCheckpoint, Keys, rope, tokenizer};
use crate::{
    architectures::{Architecture, GgufFamily},
    config::{ModelConfig, fields::Fields, hugging_face},
    error::ModelError,
};

/// The architecture of a model.
pub(super) fn architecture(
    checkpoint: &GgufCheckpoint,
) -> Result<(Architecture, &'static GgufFamily), ModelError> {
    let keys = Keys::new(checkpoint)?;
    for (architecture, gguf) in Architecture::of_gguf(keys.architecture()) {
        if (gguf.is_it)(&keys)? {
            return Ok((architecture, gguf));
        }
    }
    let supported = Architecture::supported_in_gguf();
    let name = keys.architecture();
    Err(checkpoint
        .metadata()
        .unsupported("architecture", name, supported))
}

/// The configuration of a model.
pub(super) fn read(checkpoint: &GgufCheckpoint) -> Result<ModelConfig, ModelError> {
    let fields = translate(checkpoint)?;
    let fields = Fields::from_map(checkpoint.metadata().path(), fields);
    let mut config = hugging_face::parse(fields)?;
    let blocks = &mut config.blocks;
    // Biases are there or not, whatever the architecture usually has.
    blocks.qkv_bias = checkpoint.has("blk.0.attn_q.bias") || checkpoint.has("blk.0.attn_qkv.bias");
    blocks.output_bias = checkpoint.has("blk.0.attn_output.bias");
    blocks.mlp_bias = checkpoint.has("blk.0.ffn_up.bias");
    config.stop_token_ids = tokenizer::stop_ids(checkpoint.metadata())?;
    Ok(config)
}

/// The fields of a `config.json` that says the same.
pub(super) fn translate(checkpoint: &GgufCheckpoint) -> Result<Map<String, Json>, ModelError> {
    let keys = Keys::new(checkpoint)?;
    let metadata = checkpoint.metadata();
    let (architecture, gguf) = architecture(checkpoint)?;
    let family = architecture.family();
    let own = (gguf.fields)(&keys)?;
    if keys.has_experts()? && own.get("num_experts_per_tok").is_none() {
        let experts = keys.required("expert_count")?.to_string();
        return Err(metadata.unsupported("number of experts", experts, "none"));
    }
    let (n_heads, n_kv_heads) = (keys.n_heads()?, keys.n_kv_heads()?);
    let (vocab_size, d_model) = embedding(checkpoint)?;
    let stated = keys.required("embedding_length")?;
    if stated != d_model {
        let problem = format!("expected {d_model}, as the embedding has, found {stated}");
        return Err(metadata.invalid(&keys.key("embedding_length"), problem));
    }
    let head_dim = keys.head_dim()?;
    for (name, found) in [
        (
            "attention.value_length",
            keys.size("attention.value_length")?,
        ),
        (
            "rope.dimension_count",
            keys.size("rope.dimension_count")?
                .filter(|_| !family.is_rotated_in_part),
        ),
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
        "rms_norm_eps": epsilon,
        "tie_word_embeddings": !checkpoint.has("output.weight"),
        "attention_bias": checkpoint.has("blk.0.attn_q.bias"),
        "mlp_bias": checkpoint.has("blk.0.ffn_up.bias"),
        "sliding_window": null,
    });
    let fields = fields.as_object_mut().expect("it was made above");
    if let Json::Object(own) = own {
        fields.extend(own);
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
    let queries = checkpoint.tensor("blk.0.attn_q.weight");
    let (_, tensor) = queries.or_else(|| checkpoint.tensor("blk.0.attn_qkv.weight"))?;
    match tensor.format {
        BlockFormat::F32 => Some("float32"),
        BlockFormat::F16 => Some("float16"),
        BlockFormat::BF16 => Some("bfloat16"),
        _ => None,
    }
}
