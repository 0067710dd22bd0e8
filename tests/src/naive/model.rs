use std::{collections::HashMap, fs, path::Path};

use half::{bf16, f16};
use quest_burn::{PageSharing, QuestConfig};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use super::{
    attention::{attend, select_pages},
    rope::Rope,
};

/// A Llama-family model that computes one token at a time, with the checkpoint's tensors by name.
///
/// Biases and query/key norms are applied where the checkpoint has them.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) n_layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) epsilon: f64,
    pub(super) tied: bool,
    pub(super) rope: Rope,
    pub(super) tensors: HashMap<String, Vec<f64>>,
}

/// Keys (after RoPE) and values, `[layer][kv head][token]`.
#[derive(Clone, Debug)]
pub struct Cache {
    keys: Vec<Vec<Vec<Vec<f64>>>>,
    values: Vec<Vec<Vec<Vec<f64>>>>,
}

impl Model {
    /// Reads `config.json` and every safetensors file of a folder.
    ///
    /// # Panics
    ///
    /// When something is missing or malformed.
    pub fn load(dir: &Path) -> Self {
        let config = fs::read(dir.join("config.json")).expect("config.json can be read");
        let config: Value = serde_json::from_slice(&config).expect("config.json is JSON");
        let size = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let n_heads = size("num_attention_heads").expect("a number of heads");
        let d_model = size("hidden_size").expect("a hidden size");
        let head_dim = size("head_dim").unwrap_or(d_model / n_heads);

        let mut tensors = HashMap::new();
        for entry in fs::read_dir(dir).expect("the folder can be listed") {
            let file = entry.expect("the folder can be listed").path();
            if file
                .extension()
                .is_some_and(|extension| extension == "safetensors")
            {
                let bytes = fs::read(&file).expect("the weights can be read");
                let shard = SafeTensors::deserialize(&bytes).expect("the weights are safetensors");
                tensors.extend(
                    shard
                        .iter()
                        .map(|(name, view)| (name.to_owned(), widen(&view))),
                );
            }
        }
        Self {
            n_layers: size("num_hidden_layers").expect("a number of layers"),
            n_heads,
            n_kv_heads: size("num_key_value_heads").unwrap_or(n_heads),
            head_dim,
            epsilon: config["rms_norm_eps"].as_f64().expect("an epsilon"),
            tied: config["tie_word_embeddings"].as_bool().unwrap_or(false),
            rope: Rope::from_config(&config, head_dim),
            tensors,
        }
    }

    /// A cache without tokens.
    pub fn cache(&self) -> Cache {
        let empty = vec![vec![Vec::new(); self.n_kv_heads]; self.n_layers];
        Cache {
            keys: empty.clone(),
            values: empty,
        }
    }

    /// Logits of the token after `id`; with `quest`, attention is sparse as it says, in pages of so
    /// many tokens.
    pub fn advance(
        &self,
        id: u32,
        cache: &mut Cache,
        quest: Option<(&QuestConfig, usize)>,
    ) -> Vec<f64> {
        let mut hidden = self.embedding(id);
        for layer in 0..self.n_layers {
            let prefix = format!("model.layers.{layer}");
            let input = self.norm(&format!("{prefix}.input_layernorm"), &hidden);
            let quest = quest.filter(|(quest, _)| layer >= quest.dense_layers);
            let attention =
                self.attention(&format!("{prefix}.self_attn"), layer, &input, cache, quest);
            add(&mut hidden, &attention);
            self.add_feed_forward(layer, &mut hidden);
        }
        self.logits(&hidden)
    }

    fn attention(
        &self,
        prefix: &str,
        layer: usize,
        input: &[f64],
        cache: &mut Cache,
        quest: Option<(&QuestConfig, usize)>,
    ) -> Vec<f64> {
        let position = cache.keys[layer][0].len();
        let queries = self.heads(prefix, "q", input, Some(position));
        let keys = self.heads(prefix, "k", input, Some(position));
        let values = self.heads(prefix, "v", input, None);
        let group_size = self.n_heads / self.n_kv_heads;
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let mut output = Vec::new();
        for (head, group) in queries.chunks(group_size).enumerate() {
            let (past_keys, past_values) =
                (&mut cache.keys[layer][head], &mut cache.values[layer][head]);
            past_keys.push(keys[head].clone());
            past_values.push(values[head].clone());
            for query in group {
                let tokens = match quest {
                    None => (0..=position).collect(),
                    Some((quest, page_size)) => {
                        let sharing = match quest.sharing {
                            PageSharing::QueryHead => std::slice::from_ref(query),
                            PageSharing::KvHead => group,
                        };
                        select_pages(sharing, past_keys, quest, page_size)
                            .into_iter()
                            .flat_map(|page| page * page_size..(page + 1) * page_size)
                            .filter(|&token| token <= position)
                            .collect::<Vec<_>>()
                    }
                };
                output.extend(attend(query, past_keys, past_values, &tokens, scale));
            }
        }
        self.linear(&format!("{prefix}.o_proj"), &output)
    }

    /// `-log p(ids[i + 1] | ids[..=i])` for every `i`, with full attention.
    pub fn dense_nlls(&self, ids: &[u32]) -> Vec<f64> {
        let mut cache = self.cache();
        ids.windows(2)
            .map(|pair| nll(&self.advance(pair[0], &mut cache, None), pair[1]))
            .collect()
    }

    /// NLL of `ids[prefill..]`: the first `prefill` ids are read densely, the rest through Quest in
    /// pages of `page_size`.
    pub fn quest_nlls(
        &self,
        ids: &[u32],
        prefill: usize,
        quest: &QuestConfig,
        page_size: usize,
    ) -> Vec<f64> {
        let mut cache = self.cache();
        let logits = ids.iter().enumerate().map(|(i, &id)| {
            let quest = Some((quest, page_size)).filter(|_| i >= prefill);
            self.advance(id, &mut cache, quest)
        });
        let logits = logits.collect::<Vec<_>>();
        (prefill..ids.len())
            .map(|i| nll(&logits[i - 1], ids[i]))
            .collect()
    }

    /// The most likely continuation of a prompt, with full attention.
    pub fn greedy(&self, prompt: &[u32], n: usize) -> Vec<u32> {
        let mut cache = self.cache();
        let mut logits = Vec::new();
        for &id in prompt {
            logits = self.advance(id, &mut cache, None);
        }
        let mut ids = Vec::new();
        for _ in 0..n {
            ids.push(argmax(&logits));
            logits = self.advance(*ids.last().expect("an id was pushed"), &mut cache, None);
        }
        ids
    }
}

fn nll(logits: &[f64], id: u32) -> f64 {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = logits
        .iter()
        .map(|logit| (logit - highest).exp())
        .sum::<f64>();
    highest + total.ln() - logits[id as usize]
}

fn argmax(logits: &[f64]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.expect("there are logits") as u32
}

pub(super) fn add(sum: &mut [f64], other: &[f64]) {
    sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
}

fn widen(view: &TensorView<'_>) -> Vec<f64> {
    let data = view.data();
    match view.dtype() {
        Dtype::F32 => data
            .chunks(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into())
            .collect(),
        Dtype::F16 => data
            .chunks(2)
            .map(|b| f16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        Dtype::BF16 => data
            .chunks(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).into())
            .collect(),
        other => panic!("F32, F16 or BF16 was expected, found {other:?}"),
    }
}
