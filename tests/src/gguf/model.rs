use std::{collections::HashMap, fs, path::Path};

use half::f16;
use quest_burn_linear::blocks::BlockFormat;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::{Gguf, GgufTensor, Meta};

/// A small random model, to be written as a GGUF file and as a folder.
#[derive(Clone, Debug)]
pub struct GgufSpec {
    /// `llama`, `qwen2` or `qwen3`.
    pub architecture: &'static str,
    /// The format of the matrices.
    pub format: BlockFormat,
    /// Whether the output projection is the embedding.
    pub tied: bool,
    /// Factors of the rotary frequencies, one for each pair of a head's channels.
    pub rope_factors: Option<Vec<f32>>,
    /// Seed of the weights.
    pub seed: u64,
}

impl Default for GgufSpec {
    fn default() -> Self {
        Self {
            architecture: "llama",
            format: BlockFormat::F32,
            tied: false,
            rope_factors: None,
            seed: 1,
        }
    }
}

/// Sizes of the model: rows of all formats are whole blocks.
const D_MODEL: usize = 256;
const D_FF: usize = 512;
const N_LAYERS: usize = 2;
const N_HEADS: usize = 4;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
/// Tokens of the vocabulary.
pub const VOCABULARY: usize = 96;

/// The model as a GGUF file, and its `config.json` and weights in full as a folder has them.
pub struct Pair {
    /// The file.
    pub gguf: Gguf,
    config: Value,
    /// Name, shape, values.
    tensors: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Pair {
    /// Draws a model.
    pub fn new(spec: &GgufSpec) -> Self {
        let mut pair = Self {
            gguf: Gguf::default(),
            config: config(spec),
            tensors: Vec::new(),
        };
        pair.metadata(spec.architecture);
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let is_permuted = spec.architecture == "llama";
        let (d_q, d_kv) = (N_HEADS * HEAD_DIM, N_KV_HEADS * HEAD_DIM);
        pair.matrix(
            spec,
            "token_embd",
            "model.embed_tokens",
            [VOCABULARY, D_MODEL],
            None,
            &mut rng,
        );
        for layer in 0..N_LAYERS {
            let (ggml, hugging_face) = (format!("blk.{layer}"), format!("model.layers.{layer}"));
            for (ggml_name, name, rows, columns, heads) in [
                ("attn_q", "self_attn.q_proj", d_q, D_MODEL, Some(N_HEADS)),
                (
                    "attn_k",
                    "self_attn.k_proj",
                    d_kv,
                    D_MODEL,
                    Some(N_KV_HEADS),
                ),
                ("attn_v", "self_attn.v_proj", d_kv, D_MODEL, None),
                ("attn_output", "self_attn.o_proj", D_MODEL, d_q, None),
                ("ffn_gate", "mlp.gate_proj", D_FF, D_MODEL, None),
                ("ffn_up", "mlp.up_proj", D_FF, D_MODEL, None),
                ("ffn_down", "mlp.down_proj", D_MODEL, D_FF, None),
            ] {
                let heads = heads.filter(|_| is_permuted);
                let names = (
                    format!("{ggml}.{ggml_name}"),
                    format!("{hugging_face}.{name}"),
                );
                pair.matrix(spec, &names.0, &names.1, [rows, columns], heads, &mut rng);
                let has_bias = matches!(ggml_name, "attn_q" | "attn_k" | "attn_v");
                if has_bias && spec.architecture == "qwen2" {
                    pair.vector(
                        &format!("{}.bias", names.0),
                        &format!("{}.bias", names.1),
                        rows,
                        0.0,
                        &mut rng,
                    );
                }
            }
            let mut norms = vec![
                ("attn_norm", "input_layernorm", D_MODEL),
                ("ffn_norm", "post_attention_layernorm", D_MODEL),
            ];
            if spec.architecture == "qwen3" {
                norms.push(("attn_q_norm", "self_attn.q_norm", HEAD_DIM));
                norms.push(("attn_k_norm", "self_attn.k_norm", HEAD_DIM));
            }
            for (ggml_name, name, n) in norms {
                let names = (
                    format!("{ggml}.{ggml_name}.weight"),
                    format!("{hugging_face}.{name}.weight"),
                );
                pair.vector(&names.0, &names.1, n, 1.0, &mut rng);
            }
        }
        pair.vector(
            "output_norm.weight",
            "model.norm.weight",
            D_MODEL,
            1.0,
            &mut rng,
        );
        if !spec.tied {
            pair.matrix(
                spec,
                "output",
                "lm_head",
                [VOCABULARY, D_MODEL],
                None,
                &mut rng,
            );
        }
        if let Some(factors) = &spec.rope_factors {
            pair.gguf.tensors.push(GgufTensor {
                name: "rope_freqs.weight".into(),
                shape: vec![factors.len()],
                kind: 0,
                bytes: factors
                    .iter()
                    .flat_map(|factor| factor.to_le_bytes())
                    .collect(),
            });
        }
        pair
    }

    /// Writes the folder.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write_folder(&self, dir: &Path) {
        fs::write(dir.join("config.json"), self.config.to_string())
            .unwrap_or_else(|error| panic!("{error}"));
        let bytes = self.tensors.iter().map(|(name, shape, values)| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name, shape, bytes.collect::<Vec<_>>())
        });
        let bytes = bytes.collect::<Vec<_>>();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, (*shape).clone(), bytes);
            (*name, view.expect("the bytes are those of the shape"))
        });
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(metadata), &dir.join("model.safetensors"))
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn metadata(&mut self, architecture: &str) {
        self.gguf
            .set("general.architecture", Meta::Text(architecture.into()));
        for (key, value) in [
            ("block_count", N_LAYERS),
            ("context_length", 512),
            ("embedding_length", D_MODEL),
            ("feed_forward_length", D_FF),
            ("attention.head_count", N_HEADS),
            ("attention.head_count_kv", N_KV_HEADS),
            ("attention.key_length", HEAD_DIM),
            ("rope.dimension_count", HEAD_DIM),
        ] {
            self.gguf
                .set(&format!("{architecture}.{key}"), Meta::U32(value as u32));
        }
        for (key, value) in [
            ("rope.freq_base", 50000.0),
            ("attention.layer_norm_rms_epsilon", 1e-5),
        ] {
            self.gguf
                .set(&format!("{architecture}.{key}"), Meta::F32(value));
        }
    }

    fn matrix(
        &mut self,
        spec: &GgufSpec,
        ggml: &str,
        hugging_face: &str,
        [rows, columns]: [usize; 2],
        heads: Option<usize>,
        rng: &mut StdRng,
    ) {
        let range = 1.5 * (3.0 / columns as f32).sqrt();
        let bytes = blocks(spec.format, rows * columns, range, rng);
        let mut values = vec![0.0; rows * columns];
        let result = spec.format.dequantize(&bytes, &mut values);
        result.expect("the blocks are those of the values");
        let values = match heads {
            Some(heads) => in_folder_order(&values, columns, heads),
            None => values,
        };
        self.gguf.tensors.push(GgufTensor {
            name: format!("{ggml}.weight"),
            shape: vec![rows, columns],
            kind: spec.format.ggml_type(),
            bytes,
        });
        let name = format!("{hugging_face}.weight");
        self.tensors.push((name, vec![rows, columns], values));
    }

    fn vector(&mut self, ggml: &str, hugging_face: &str, n: usize, center: f32, rng: &mut StdRng) {
        let values = (0..n).map(|_| center + rng.random_range(-0.25..0.25f32));
        let values = values.collect::<Vec<_>>();
        self.gguf.tensors.push(GgufTensor {
            name: ggml.into(),
            shape: vec![n],
            kind: 0,
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        });
        self.tensors.push((hugging_face.into(), vec![n], values));
    }
}

/// Rows of a head as a folder has them: llama.cpp's converter interleaves those of its two halves.
fn in_folder_order(values: &[f32], columns: usize, heads: usize) -> Vec<f32> {
    let per_head = values.len() / columns / heads;
    let mut ordered = vec![0.0; values.len()];
    for head in 0..heads {
        for row in 0..per_head {
            let (pair, side) = (row / 2, row % 2);
            let to = (head * per_head + side * per_head / 2 + pair) * columns;
            let from = (head * per_head + row) * columns;
            ordered[to..to + columns].copy_from_slice(&values[from..from + columns]);
        }
    }
    ordered
}

/// Random blocks whose values are about as large as `range`: any bits, behind scales that are numbers.
fn blocks(format: BlockFormat, n: usize, range: f32, rng: &mut StdRng) -> Vec<u8> {
    let uniform = |rng: &mut StdRng| rng.random_range(-range..range);
    match format {
        BlockFormat::F32 => return (0..n).flat_map(|_| uniform(rng).to_le_bytes()).collect(),
        BlockFormat::F16 => {
            return (0..n)
                .flat_map(|_| f16::from_f32(uniform(rng)).to_le_bytes())
                .collect();
        }
        BlockFormat::BF16 => {
            return (0..n)
                .flat_map(|_| half::bf16::from_f32(uniform(rng)).to_le_bytes())
                .collect();
        }
        _ => {}
    }
    // Where the scales of a block are, and by how much less than one unit of them a value is.
    let (scales, levels): (&[usize], f32) = match format {
        BlockFormat::Q8_0 => (&[0], 127.0),
        BlockFormat::Q4_1 | BlockFormat::Q5_1 => (&[0, 2], 16.0),
        BlockFormat::Q4_K | BlockFormat::Q5_K => (&[0, 2], 600.0),
        BlockFormat::Q6_K => (&[208], 2000.0),
        BlockFormat::IQ4_NL => (&[0], 127.0),
        _ => (&[0], 16.0),
    };
    let n_blocks = n / format.weights_per_block();
    let mut bytes = vec![0; n_blocks * format.bytes_per_block()];
    rng.fill(&mut bytes[..]);
    for block in bytes.chunks_exact_mut(format.bytes_per_block()) {
        for &place in scales {
            let scale = f16::from_f32(range / levels * rng.random_range(0.5..1.0));
            block[place..place + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn config(spec: &GgufSpec) -> Value {
    let class = match spec.architecture {
        "llama" => "LlamaForCausalLM",
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        other => panic!("no test writes `{other}`"),
    };
    let mut config = json!({
        "architectures": [class], "model_type": spec.architecture, "hidden_act": "silu",
        "hidden_size": D_MODEL, "intermediate_size": D_FF, "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS, "num_key_value_heads": N_KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0, "tie_word_embeddings": spec.tied,
    });
    if let Some(factors) = &spec.rope_factors {
        let scaling = json!({
            "rope_type": "longrope", "attention_factor": 1.0,
            "short_factor": factors, "long_factor": factors,
        });
        let fields: &mut Map<_, _> = config.as_object_mut().expect("it was made above");
        fields.insert("rope_scaling".into(), scaling);
    }
    config
}
