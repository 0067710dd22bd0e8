//! The GGUF file that llama.cpp's converter makes of a folder: its names, its order of rows, experts in
//! one tensor, one added to Gemma's norms.

use std::{collections::BTreeMap, fs, path::Path};

use half::{bf16, f16};
use quest_burn_linear::blocks::BlockFormat;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::gguf::{Gguf, GgufTensor, Meta};

/// Hugging Face's names of a layer's parts and ggml's; the first that ends a name counts.
const PARTS: [(&str, &str); 22] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("w1", "ffn_gate"),
    ("w3", "ffn_up"),
    ("w2", "ffn_down"),
    ("gate_proj", "ffn_gate"),
    ("up_proj", "ffn_up"),
];

/// How the converter treats an architecture.
#[derive(Clone, Copy, Debug)]
pub struct Conversion {
    /// ggml's name of the architecture.
    pub architecture: &'static str,
    /// The format of matrices whose rows are whole blocks; those of a router stay as they are.
    pub format: BlockFormat,
}

impl Conversion {
    /// The file of a folder with one file of weights in bf16. Metadata of an architecture's own is the
    /// caller's.
    ///
    /// # Panics
    ///
    /// When the folder cannot be read.
    pub fn of_folder(&self, dir: &Path) -> Gguf {
        let config = fs::read_to_string(dir.join("config.json")).expect("a configuration");
        let config: Value = serde_json::from_str(&config).expect("it is JSON");
        let bytes = fs::read(dir.join("model.safetensors")).expect("weights");
        let tensors = SafeTensors::deserialize(&bytes).expect("they are safetensors");
        let mut gguf = Gguf::default();
        self.set_metadata(&mut gguf, &config);
        let mut experts = BTreeMap::<String, Vec<(usize, Matrix)>>::new();
        for (name, view) in tensors.tensors() {
            let (pairs, _) = view.data().as_chunks::<2>();
            let values = pairs.iter().map(|pair| bf16::from_le_bytes(*pair).to_f32());
            let mut tensor = Matrix {
                shape: view.shape().to_vec(),
                values: values.collect(),
            };
            let (ggml, expert) = ggml_name(&name, self.architecture);
            let heads = |field: &str| config[field].as_u64().expect("a number") as usize;
            let is_permuted = self.architecture == "llama";
            if is_permuted && name.ends_with("q_proj.weight") {
                tensor.permute(heads("num_attention_heads"));
            }
            if is_permuted && name.ends_with("k_proj.weight") {
                tensor.permute(heads("num_key_value_heads"));
            }
            if self.architecture.starts_with("gemma") && name.ends_with("norm.weight") {
                tensor.values.iter_mut().for_each(|value| *value += 1.0);
            }
            match expert {
                Some(expert) => experts.entry(ggml).or_default().push((expert, tensor)),
                None => gguf.tensors.push(self.tensor(ggml, tensor)),
            }
        }
        for (name, mut matrices) in experts {
            matrices.sort_by_key(|(expert, _)| *expert);
            let [rows, columns] = matrices[0].1.shape[..] else {
                panic!("experts are matrices");
            };
            let shape = vec![matrices.len(), rows, columns];
            let values = matrices.into_iter().flat_map(|(_, matrix)| matrix.values);
            let values = values.collect();
            gguf.tensors
                .push(self.tensor(name, Matrix { shape, values }));
        }
        gguf
    }

    fn set_metadata(&self, gguf: &mut Gguf, config: &Value) {
        let architecture = self.architecture;
        gguf.set("general.architecture", Meta::Text(architecture.into()));
        for (key, field) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("attention.value_length", "head_dim"),
            ("attention.sliding_window", "sliding_window"),
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
        ] {
            if let Some(number) = config[field].as_u64() {
                gguf.set(&format!("{architecture}.{key}"), Meta::U32(number as u32));
            }
        }
        let rope = &config["rope_parameters"];
        let rope = match &rope["full_attention"] {
            Value::Null => rope,
            rope => rope,
        };
        for (key, number) in [
            ("attention.layer_norm_rms_epsilon", &config["rms_norm_eps"]),
            ("rope.freq_base", &rope["rope_theta"]),
            ("rope.scaling.factor", &rope["factor"]),
            ("attn_logit_softcapping", &config["attn_logit_softcapping"]),
            (
                "final_logit_softcapping",
                &config["final_logit_softcapping"],
            ),
        ] {
            if let Some(number) = number.as_f64() {
                gguf.set(&format!("{architecture}.{key}"), Meta::F32(number as f32));
            }
        }
        for field in ["bos_token_id", "eos_token_id"] {
            let id = config[field].as_u64().expect("a token id") as u32;
            gguf.set(&format!("tokenizer.ggml.{field}"), Meta::U32(id));
        }
    }

    fn tensor(&self, name: String, matrix: Matrix) -> GgufTensor {
        let row = *matrix.shape.last().expect("an axis");
        let is_plain = matrix.shape.len() < 2
            || name.contains("ffn_gate_inp")
            || !row.is_multiple_of(self.format.weights_per_block());
        let format = match is_plain {
            true => BlockFormat::F32,
            false => self.format,
        };
        let values = matrix.values.iter();
        let bytes = match format {
            BlockFormat::F32 => values.flat_map(|value| value.to_le_bytes()).collect(),
            BlockFormat::Q8_0 => matrix.values.chunks(32).flat_map(q8_0).collect(),
            other => panic!("no test writes {other}"),
        };
        GgufTensor {
            name,
            shape: matrix.shape,
            kind: format.ggml_type(),
            bytes,
        }
    }
}

/// 32 values as a block.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let largest = values
        .iter()
        .fold(0f32, |most, value| most.max(value.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let levels = values.iter().map(|value| match scale.to_f32() {
        0.0 => 0,
        scale => (value / scale).round().clamp(-127.0, 127.0) as i8 as u8,
    });
    scale.to_le_bytes().into_iter().chain(levels).collect()
}

struct Matrix {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Matrix {
    /// Interleaves the rows of the two halves of each head.
    fn permute(&mut self, heads: usize) {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let per_head = rows / heads;
        let order = (0..rows).map(|row| {
            let (head, row) = (row / per_head, row % per_head);
            head * per_head + row % 2 * (per_head / 2) + row / 2
        });
        let rows = order.map(|row| &self.values[row * columns..(row + 1) * columns]);
        self.values = rows.collect::<Vec<_>>().concat();
    }
}

/// ggml's name, and which expert's matrix it is.
fn ggml_name(name: &str, architecture: &str) -> (String, Option<usize>) {
    match name {
        "model.embed_tokens.weight" => return ("token_embd.weight".into(), None),
        "model.norm.weight" => return ("output_norm.weight".into(), None),
        "lm_head.weight" => return ("output.weight".into(), None),
        _ => {}
    }
    let rest = name.strip_prefix("model.layers.").expect("of a layer");
    let (layer, rest) = rest.split_once('.').expect("a layer's number");
    let (part, kind) = rest.rsplit_once('.').expect("a kind");
    if architecture.starts_with("gemma") && part == "post_attention_layernorm" {
        return (format!("blk.{layer}.post_attention_norm.{kind}"), None);
    }
    let ggml = |part: &str| {
        let found = PARTS.iter().find(|(known, _)| *known == part);
        let part = found.unwrap_or_else(|| panic!("no name of {part}")).1;
        format!("blk.{layer}.{part}")
    };
    match part.split_once("experts.") {
        None => (format!("{}.{kind}", ggml(part)), None),
        Some((_, rest)) => {
            let (expert, part) = rest.split_once('.').expect("an expert's number");
            let expert = expert.parse().expect("a number");
            let part = match part {
                "down_proj" => "w2",
                part => part,
            };
            (format!("{}_exps.{kind}", ggml(part)), Some(expert))
        }
    }
}
