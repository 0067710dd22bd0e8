//! Small random checkpoints, laid out as Hugging Face's `save_pretrained` does.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use burn::tensor::DType;
use half::{bf16, f16};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use safetensors::{Dtype, View};
use serde_json::{Value, json};

/// What [`write()`] writes. Every field has a small default; override what a test is about.
#[derive(Clone, Debug)]
pub struct CheckpointSpec {
    /// The class that `config.json` names: `LlamaForCausalLM`, `MistralForCausalLM`,
    /// `Qwen2ForCausalLM` (biases on queries, keys and values) or `Qwen3ForCausalLM` (norms on
    /// queries and keys).
    pub architecture: &'static str,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Channels of the residual stream.
    pub d_model: usize,
    /// Channels inside the MLP.
    pub d_ff: usize,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// KV heads.
    pub n_kv_heads: usize,
    /// Channels of a head; need not be `d_model / n_heads`.
    pub head_dim: usize,
    /// Element type of the weights: `F32`, `F16` or `BF16`.
    pub dtype: DType,
    /// Number of files; with more than one there is an index beside them.
    pub shards: usize,
    /// Whether the output projection is the embedding, and therefore not stored.
    pub tied: bool,
    /// Seed of the weights.
    pub seed: u64,
    /// Rotary embedding, merged into `config.json`. With a key `rope_parameters` the whole file is
    /// written in the newer of the two styles that Hugging Face has used.
    pub rope: Value,
    /// Longest context that `config.json` promises.
    pub max_positions: usize,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            architecture: "LlamaForCausalLM",
            vocab_size: 160,
            d_model: 64,
            d_ff: 96,
            n_layers: 4,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            dtype: DType::F32,
            shards: 1,
            tied: false,
            seed: 1,
            rope: json!({ "rope_theta": 10000.0 }),
            max_positions: 1024,
        }
    }
}

/// Writes `config.json`, `generation_config.json` and the weights into `dir`, which must exist.
///
/// # Panics
///
/// When a file cannot be written or the dtype is not one of the three.
pub fn write(dir: &Path, spec: &CheckpointSpec) {
    write_json(&dir.join("config.json"), &config(spec));
    let ids = json!({ "bos_token_id": BOS, "eos_token_id": EOS });
    write_json(&dir.join("generation_config.json"), &ids);

    let tensors = tensors(spec);
    if spec.shards <= 1 {
        return write_tensors(&dir.join("model.safetensors"), &tensors);
    }
    let mut weight_map = BTreeMap::new();
    let per_shard = tensors.len().div_ceil(spec.shards);
    for (i, shard) in tensors.chunks(per_shard).enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, spec.shards);
        write_tensors(&dir.join(&file), shard);
        weight_map.extend(shard.iter().map(|(name, _)| (name.clone(), file.clone())));
    }
    let total_size = tensors
        .iter()
        .map(|(_, tensor)| tensor.bytes.len())
        .sum::<usize>();
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    write_json(&dir.join("model.safetensors.index.json"), &index);
}

const BOS: usize = 1;
const EOS: usize = 2;

fn config(spec: &CheckpointSpec) -> Value {
    let is_newer = spec.rope.get("rope_parameters").is_some();
    let dtype = match spec.dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        other => panic!("a checkpoint of F32, F16 or BF16 was expected, found {other:?}"),
    };
    let mut config = json!({
        "architectures": [spec.architecture],
        "model_type": spec.architecture.trim_end_matches("ForCausalLM").to_lowercase(),
        "hidden_act": "silu",
        "hidden_size": spec.d_model,
        "intermediate_size": spec.d_ff,
        "max_position_embeddings": spec.max_positions,
        "num_attention_heads": spec.n_heads,
        "num_hidden_layers": spec.n_layers,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": spec.tied,
        "vocab_size": spec.vocab_size,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    });
    let fields = config
        .as_object_mut()
        .expect("the literal above is an object");
    fields.extend(spec.rope.as_object().expect("`rope` is an object").clone());
    fields.insert(
        if is_newer { "dtype" } else { "torch_dtype" }.into(),
        dtype.into(),
    );
    // Older Llama configurations leave out what equals the default of their time.
    if is_newer || spec.head_dim * spec.n_heads != spec.d_model {
        fields.insert("head_dim".into(), spec.head_dim.into());
    }
    if is_newer || spec.n_kv_heads != spec.n_heads || spec.architecture != "LlamaForCausalLM" {
        fields.insert("num_key_value_heads".into(), spec.n_kv_heads.into());
    }
    config
}

/// The tensors in the order of the layers, as transformers stores them.
fn tensors(spec: &CheckpointSpec) -> Vec<(String, StoredTensor)> {
    let mut weights = Weights::new(spec);
    let (d_model, d_ff) = (spec.d_model, spec.d_ff);
    let (d_q, d_kv) = (
        spec.n_heads * spec.head_dim,
        spec.n_kv_heads * spec.head_dim,
    );

    weights.linear("model.embed_tokens", [spec.vocab_size, d_model], 3.0);
    for layer in 0..spec.n_layers {
        let layer = format!("model.layers.{layer}");
        weights.norm(&format!("{layer}.input_layernorm"), d_model);
        for (name, rows, gain) in [("q", d_q, 2.0), ("k", d_kv, 2.0), ("v", d_kv, 1.0)] {
            let name = format!("{layer}.self_attn.{name}_proj");
            weights.linear(&name, [rows, d_model], gain);
            if spec.architecture == "Qwen2ForCausalLM" {
                weights.uniform(format!("{name}.bias"), &[rows], 0.0, 1.0);
            }
        }
        if spec.architecture == "Qwen3ForCausalLM" {
            weights.norm(&format!("{layer}.self_attn.q_norm"), spec.head_dim);
            weights.norm(&format!("{layer}.self_attn.k_norm"), spec.head_dim);
        }
        weights.linear(&format!("{layer}.self_attn.o_proj"), [d_model, d_q], 2.0);
        weights.norm(&format!("{layer}.post_attention_layernorm"), d_model);
        weights.linear(&format!("{layer}.mlp.gate_proj"), [d_ff, d_model], 1.0);
        weights.linear(&format!("{layer}.mlp.up_proj"), [d_ff, d_model], 1.0);
        weights.linear(&format!("{layer}.mlp.down_proj"), [d_model, d_ff], 2.0);
    }
    weights.norm("model.norm", d_model);
    if !spec.tied {
        weights.linear("lm_head", [spec.vocab_size, d_model], 3.0);
    }
    weights.tensors
}

struct Weights {
    dtype: DType,
    rng: StdRng,
    tensors: Vec<(String, StoredTensor)>,
}

impl Weights {
    fn new(spec: &CheckpointSpec) -> Self {
        Self {
            dtype: spec.dtype,
            rng: StdRng::seed_from_u64(spec.seed),
            tensors: Vec::new(),
        }
    }

    /// Rows that turn inputs of unit variance into outputs of variance `gain²`. Gains above 1 make
    /// attention and next-token distributions peaky, so that a mistake shows.
    fn linear(&mut self, name: &str, [rows, columns]: [usize; 2], gain: f32) {
        let range = gain * (3.0 / columns as f32).sqrt();
        self.uniform(format!("{name}.weight"), &[rows, columns], 0.0, range);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.uniform(format!("{name}.weight"), &[channels], 1.0, 0.25);
    }

    fn uniform(&mut self, name: String, shape: &[usize], center: f32, range: f32) {
        let mut bytes = Vec::new();
        for _ in 0..shape.iter().product() {
            let value = center + self.rng.random_range(-range..range);
            match self.dtype {
                DType::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                DType::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                _ => bytes.extend(value.to_le_bytes()),
            }
        }
        let dtype = match self.dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        let shape = shape.to_vec();
        self.tensors.push((
            name,
            StoredTensor {
                dtype,
                shape,
                bytes,
            },
        ));
    }
}

struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &StoredTensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn write_tensors(file: &Path, tensors: &[(String, StoredTensor)]) {
    let views = tensors.iter().map(|(name, tensor)| (name, tensor));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn write_json(file: &Path, value: &Value) {
    let text = serde_json::to_string_pretty(value).expect("JSON values serialise");
    fs::write(file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
