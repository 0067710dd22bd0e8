//! `microsoft/Phi-3-mini-4k-instruct` and its kin, but for fields without a meaning here.

use super::*;

fn phi3_mini(changes: Value) -> Value {
    let config = json!({
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": false,
        "bos_token_id": 1, "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_scaling": null,
        "rope_theta": 10000.0, "sliding_window": 2047, "tie_word_embeddings": false,
        "torch_dtype": "bfloat16", "vocab_size": 32064
    });
    changed(config, changes)
}

#[test]
fn phi_3_has_merged_projections_and_a_window_in_every_layer() {
    let config = read(&phi3_mini(json!({}))).unwrap();
    assert!(config.blocks.merged_projections && !config.blocks.qkv_bias);
    let windows = config.blocks.windows.unwrap();
    assert_eq!(windows.tokens, 2047);
    assert!((0..32).all(|layer| windows.has(layer)));
    assert_eq!((config.head_dim, config.rope.rotary_dim), (96, None));
    let phi4 = json!({
        "hidden_size": 5120, "num_attention_heads": 40, "num_key_value_heads": 10,
        "max_position_embeddings": 16384, "sliding_window": null, "partial_rotary_factor": 1.0
    });
    let phi4 = read(&phi3_mini(phi4)).unwrap();
    assert_eq!((phi4.blocks.windows, phi4.max_positions), (None, 16384));
}

#[test]
fn a_part_of_a_head_is_rotated_where_the_file_says_so() {
    let config = read(&phi3_mini(json!({ "partial_rotary_factor": 0.75 }))).unwrap();
    assert_eq!(config.rope.rotary_dim, Some(72));
    let nothing = phi3_mini(json!({ "partial_rotary_factor": 0.01 }));
    assert!(error(&nothing).contains("rotated channels from 2 to 96, found 0"));
}

#[test]
fn what_depends_on_the_length_is_refused() {
    for kind in ["longrope", "su"] {
        let factors = |factor: f64| vec![factor; 48];
        let scaling = json!({
            "type": kind, "short_factor": factors(1.05), "long_factor": factors(20.0)
        });
        let config = phi3_mini(json!({
            "max_position_embeddings": 131072, "rope_scaling": scaling
        }));
        let error = error(&config);
        let expected = format!("unsupported RoPE type `{kind}`");
        assert!(error.contains(&expected), "{error}");
    }
    let quantized = phi3_mini(json!({ "quantization_config": { "quant_method": "gptq" } }));
    assert!(error(&quantized).contains("unsupported quantization `of merged projections`"));
}
