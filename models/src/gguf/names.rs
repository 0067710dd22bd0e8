//! ggml's names of tensors and Hugging Face's.

use crate::architectures::GgufFamily;

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
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What stands for the number of an expert.
const EXPERT: char = '*';

/// What a tensor is called in a Hugging Face folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// It belongs to the configuration.
    Configuration,
    /// One tensor.
    One(String),
    /// One for each expert; what stands before the expert's number and behind it.
    OfExperts(String, String),
}

/// Hugging Face's name of a tensor. One that is not known keeps its name.
pub(super) fn hugging_face(name: &str, family: &GgufFamily) -> Name {
    Name::One(match name {
        ROPE_FACTORS => return Name::Configuration,
        "token_embd.weight" => "model.embed_tokens.weight".into(),
        "output_norm.weight" => "model.norm.weight".into(),
        "output.weight" => "lm_head.weight".into(),
        name => return layer(name, family).unwrap_or_else(|| Name::One(name.into())),
    })
}

fn layer(name: &str, family: &GgufFamily) -> Option<Name> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let find = |part: &str| {
        let mut parts = family.parts.iter().chain(&LAYER);
        parts.find(|(ggml, _)| *ggml == part).map(|(_, name)| *name)
    };
    // Files of 2023 have the experts one by one.
    let (part, expert) = match part.rsplit_once('.') {
        Some((part, expert)) if expert.bytes().all(|byte| byte.is_ascii_digit()) => {
            (find(&format!("{part}_exps"))?, Some(expert))
        }
        _ => (find(part)?, None),
    };
    let full = |part: &str| format!("model.layers.{number}.{part}.{kind}");
    Some(match (full(part).split_once(EXPERT), expert) {
        (None, _) => Name::One(full(part)),
        (Some((before, behind)), None) => Name::OfExperts(before.into(), behind.into()),
        (Some((before, behind)), Some(expert)) => Name::One(format!("{before}{expert}{behind}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::Architecture;

    fn name(architecture: Architecture, name: &str) -> Name {
        hugging_face(name, architecture.family().gguf.as_ref().unwrap())
    }

    fn one(name: &str) -> Name {
        Name::One(name.into())
    }

    #[test]
    fn the_norms_of_gemma_are_others_than_those_of_llama() {
        let norm = "blk.3.ffn_norm.weight";
        assert_eq!(
            name(Architecture::Llama, norm),
            one("model.layers.3.post_attention_layernorm.weight")
        );
        assert_eq!(
            name(Architecture::Gemma3, norm),
            one("model.layers.3.pre_feedforward_layernorm.weight")
        );
    }

    #[test]
    fn experts_are_stacked_or_one_by_one() {
        let before = "model.layers.0.block_sparse_moe.experts.".to_owned();
        assert_eq!(
            name(Architecture::Mixtral, "blk.0.ffn_up_exps.weight"),
            Name::OfExperts(before.clone(), ".w3.weight".into())
        );
        assert_eq!(
            name(Architecture::Mixtral, "blk.0.ffn_up.12.weight"),
            one(&format!("{before}12.w3.weight"))
        );
    }

    #[test]
    fn what_is_not_known_keeps_its_name() {
        for unknown in ["a.b", "blk.0.ffn_up_exps.weight", "blk.0.ffn_up.1.weight"] {
            assert_eq!(name(Architecture::Llama, unknown), one(unknown));
        }
        let factors = name(Architecture::Llama, ROPE_FACTORS);
        assert_eq!(factors, Name::Configuration);
    }
}
