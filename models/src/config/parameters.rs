use std::collections::HashSet;

use super::{ModelConfig, PackedLayout};

/// The tensors of a model: name in a checkpoint, and shape there.
///
/// A tied output projection is not among them.
pub(crate) fn shapes(config: &ModelConfig) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
    let embedding = vec![config.vocab_size, config.d_model];
    let lm_head =
        (!config.tie_word_embeddings).then(|| ("lm_head.weight".into(), embedding.clone()));
    [("model.embed_tokens.weight".into(), embedding)]
        .into_iter()
        .chain((0..config.n_layers).flat_map(|layer| layer_shapes(config, layer)))
        .chain([("model.norm.weight".into(), vec![config.d_model])])
        .chain(lm_head)
}

/// A tensor of a checkpoint.
pub(crate) struct StoredTensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether it holds packed integers; otherwise it holds floating-point numbers.
    pub is_packed: bool,
    /// Whether it may be absent.
    pub is_optional: bool,
}

/// The tensors of a checkpoint of the model: those of [`shapes`], with others in the place of the
/// weights that are stored quantised. Of a quantised model some projections may be in full all the
/// same: those whose weights are there under their own name, as `has` says.
pub(crate) fn stored(config: &ModelConfig, has: impl Fn(&str) -> bool) -> Vec<StoredTensor> {
    let tensor = |name: String, shape: Vec<usize>| StoredTensor {
        name,
        shape,
        is_packed: false,
        is_optional: false,
    };
    let mut tensors = Vec::new();
    let mut biases = Vec::new();
    for (name, shape) in shapes(config) {
        let is_packed = is_projection(&name) && !has(&name);
        let (Some(quantization), true, &[d_output, d_input]) =
            (config.quantization, is_packed, &shape[..])
        else {
            tensors.push(tensor(name, shape));
            continue;
        };
        let name = name.trim_end_matches(".weight");
        let groups = quantization.groups(d_input);
        let per_word = quantization.per_word();
        let words = match quantization.layout {
            PackedLayout::Gptq | PackedLayout::GptqV2 => [d_input / per_word, d_output],
            PackedLayout::Awq => [d_input, d_output / per_word],
        };
        tensors.push(StoredTensor {
            is_packed: true,
            ..tensor(format!("{name}.qweight"), words.to_vec())
        });
        tensors.push(StoredTensor {
            is_packed: true,
            ..tensor(format!("{name}.qzeros"), vec![groups, d_output / per_word])
        });
        tensors.push(tensor(format!("{name}.scales"), vec![groups, d_output]));
        if quantization.layout != PackedLayout::Awq {
            tensors.push(StoredTensor {
                is_packed: true,
                is_optional: true,
                ..tensor(format!("{name}.g_idx"), vec![d_input])
            });
        }
        // Some writers give every layer a bias, of zeros where the model has none.
        biases.push(StoredTensor {
            is_optional: true,
            ..tensor(format!("{name}.bias"), vec![d_output])
        });
    }
    let names = tensors.iter().map(|tensor| tensor.name.clone());
    let names = names.collect::<HashSet<_>>();
    tensors.extend(
        biases
            .into_iter()
            .filter(|bias| !names.contains(&bias.name)),
    );
    tensors
}

/// Whether a tensor has the weights of a layer's projection.
pub(crate) fn is_projection(name: &str) -> bool {
    name.starts_with("model.layers.") && name.ends_with("_proj.weight")
}

fn layer_shapes(config: &ModelConfig, layer: usize) -> Vec<(String, Vec<usize>)> {
    let (d_model, blocks) = (config.d_model, &config.blocks);
    let queries = config.n_heads * config.head_dim;
    let keys = config.n_kv_heads * config.head_dim;
    let mut shapes = Vec::new();
    let mut linear = |name: String, d_output: usize, d_input: usize, bias: bool| {
        shapes.push((format!("{name}.weight"), vec![d_output, d_input]));
        if bias {
            shapes.push((format!("{name}.bias"), vec![d_output]));
        }
    };
    for (name, d_output, d_input, bias) in [
        ("q_proj", queries, d_model, blocks.qkv_bias),
        ("k_proj", keys, d_model, blocks.qkv_bias),
        ("v_proj", keys, d_model, blocks.qkv_bias),
        ("o_proj", d_model, queries, blocks.output_bias),
    ] {
        linear(format!("self_attn.{name}"), d_output, d_input, bias);
    }
    let mut feed_forward = |name: String, d_ff: usize| {
        linear(format!("{name}.gate_proj"), d_ff, d_model, blocks.mlp_bias);
        linear(format!("{name}.up_proj"), d_ff, d_model, blocks.mlp_bias);
        linear(format!("{name}.down_proj"), d_model, d_ff, blocks.mlp_bias);
    };
    match blocks.experts.as_ref().filter(|experts| experts.has(layer)) {
        None => feed_forward("mlp".into(), config.d_ff),
        Some(experts) => {
            for expert in 0..experts.count {
                feed_forward(format!("mlp.experts.{expert}"), experts.d_ff);
            }
            if let Some(d_ff) = experts.shared_d_ff {
                feed_forward("mlp.shared_expert".into(), d_ff);
            }
            linear("mlp.gate".into(), experts.count, d_model, false);
        }
    }
    let mut norms = vec![
        ("input_layernorm", d_model),
        ("post_attention_layernorm", d_model),
    ];
    if blocks.output_norms {
        norms.extend([
            ("pre_feedforward_layernorm", d_model),
            ("post_feedforward_layernorm", d_model),
        ]);
    }
    if blocks.norms_queries(layer) {
        norms.extend([
            ("self_attn.q_norm", config.head_dim),
            ("self_attn.k_norm", config.head_dim),
        ]);
    }
    for (name, channels) in norms {
        shapes.push((format!("{name}.weight"), vec![channels]));
    }
    let named = shapes.into_iter();
    named
        .map(|(name, shape)| (format!("model.layers.{layer}.{name}"), shape))
        .collect()
}
