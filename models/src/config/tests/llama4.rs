//! `meta-llama/Llama-4-Scout-17B-16E-Instruct`, but for fields without a meaning here.

use quest_burn::attention::{RopeScaling, Window};

use super::*;

fn scout() -> Value {
    json!({
        "architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4",
        "vision_config": { "model_type": "llama4_vision_model" },
        "text_config": {
            "attention_bias": false, "attention_chunk_size": 8192, "attn_scale": 0.1,
            "attn_temperature_tuning": true, "bos_token_id": 200000,
            "eos_token_id": [200001, 200007, 200008], "floor_scale": 8192, "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 5120, "interleave_moe_layer_step": 1,
            "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "max_position_embeddings": 10485760, "model_type": "llama4_text", "no_rope_layers": [],
            "num_attention_heads": 40, "num_experts_per_tok": 1, "num_hidden_layers": 48,
            "num_key_value_heads": 8, "num_local_experts": 16, "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 0.5,
                "original_max_position_embeddings": 8192, "rope_type": "llama3"
            },
            "rope_theta": 500000.0, "torch_dtype": "bfloat16", "use_qk_norm": true,
            "vocab_size": 202048
        }
    })
}

#[test]
fn llama_4_is_rotated_in_chunks_and_not_at_all_in_every_fourth_layer() {
    let config = read(&scout()).unwrap();
    let blocks = &config.blocks;
    let windows = blocks.windows.as_ref().unwrap();
    assert_eq!(windows.window(), Window::Chunk { tokens: 8192 });
    for layer in 0..48 {
        let is_global = layer % 4 == 3;
        assert_eq!(windows.has(layer), !is_global);
        assert_eq!(blocks.unrotated_layers.contains(&layer), is_global);
        assert_eq!(blocks.norms_queries(layer), !is_global);
    }
    let temperature = blocks.temperature.unwrap();
    assert_eq!((temperature.floor, temperature.scale), (8192, 0.1));
    assert!(matches!(config.rope.scaling, RopeScaling::Llama3 { .. }));
    let experts = blocks.experts.as_ref().unwrap();
    assert_eq!((experts.count, experts.chosen, experts.d_ff), (16, 1, 8192));
    assert_eq!(experts.shared_d_ff, Some(8192));
    assert!(experts.dense_layers.is_empty());
    assert_eq!(config.d_ff, 16384);
}

#[test]
fn layers_may_be_named() {
    let mut config = scout();
    let text = &mut config["text_config"];
    text["num_hidden_layers"] = json!(4);
    text["no_rope_layers"] = json!([1, 0, 1, 0]);
    text["moe_layers"] = json!([1]);
    let blocks = read(&config).unwrap().blocks;
    assert_eq!(blocks.unrotated_layers, [1, 3]);
    assert_eq!(blocks.experts.unwrap().dense_layers, [0, 2, 3]);
    config["text_config"]["no_rope_layers"] = json!([1, 0]);
    let expected = "field `no_rope_layers`: expected 4, one for each layer, found 2";
    assert!(error(&config).contains(expected));
    config["text_config"]["no_rope_layers"] = json!([]);
    config["text_config"]["layer_types"] = json!(vec!["sliding_attention"; 4]);
    let expected = "unsupported type of layer `sliding_attention`";
    assert!(error(&config).contains(expected));
}
