//! `google/gemma-2-2b-it`, but for fields without a meaning here.

use super::*;

fn gemma_2b() -> Value {
    json!({
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
        "attention_bias": false, "attn_logit_softcapping": 50.0, "bos_token_id": 2,
        "cache_implementation": "hybrid", "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "intermediate_size": 9216,
        "max_position_embeddings": 8192, "num_attention_heads": 8, "num_hidden_layers": 26,
        "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16",
        "vocab_size": 256000
    })
}

#[test]
fn gemma_2_caps_scores_and_logits_and_has_windows_in_every_other_layer() {
    let config = read(&gemma_2b()).unwrap();
    let blocks = &config.blocks;
    assert_eq!(blocks.attention_soft_cap, Some(50.0));
    assert_eq!(blocks.logit_soft_cap, Some(30.0));
    assert!(blocks.output_norms && blocks.norms_less_one && !blocks.qk_norm);
    let windows = blocks.windows.as_ref().unwrap();
    assert_eq!(windows.tokens, 4096);
    assert!((0..26).all(|layer| windows.has(layer) == (layer % 2 == 0)));
    assert!(config.tie_word_embeddings);
}

#[test]
fn caps_are_those_of_all_models_unless_the_file_says_otherwise() {
    let mut config = gemma_2b();
    let fields = config.as_object_mut().unwrap();
    fields.remove("attn_logit_softcapping");
    fields.insert("final_logit_softcapping".into(), Value::Null);
    let blocks = read(&config).unwrap().blocks;
    assert_eq!(blocks.attention_soft_cap, Some(50.0));
    assert_eq!(blocks.logit_soft_cap, None);
}
