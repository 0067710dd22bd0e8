//! ggml's names of tensors and Hugging Face's.

/// Parts of a layer: ggml's name, and Hugging Face's.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Factors of the rotary frequencies, which are part of the configuration.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Hugging Face's name of a tensor; none where it belongs to the configuration. A tensor that is not
/// known keeps its name.
pub fn hugging_face(name: &str) -> Option<String> {
    match name {
        ROPE_FACTORS => None,
        "token_embd.weight" => Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => Some("model.norm.weight".into()),
        "output.weight" => Some("lm_head.weight".into()),
        name => Some(layer(name).unwrap_or_else(|| name.into())),
    }
}

fn layer(name: &str) -> Option<String> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, part) = LAYER.iter().find(|(ggml, _)| *ggml == part)?;
    Some(format!("model.layers.{number}.{part}.{kind}"))
}
