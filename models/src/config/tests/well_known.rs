use burn::tensor::DType;
use quest_burn::inference::WeightFormat;

use super::*;

/// The shapes of well-known models, with the number of parameters that they are known for.
#[test]
fn well_known_models_have_their_sizes() {
    let table = [
        (
            "Llama 2 7B",
            json!({
                "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
                "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
                "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
                "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false,
                "torch_dtype": "float16", "vocab_size": 32000
            }),
            6_738_415_616,
            (32, 128, 4096),
        ),
        (
            "Llama 3.1 8B",
            json!({
                "architectures": ["LlamaForCausalLM"], "attention_bias": false,
                "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
                "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
                "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
                "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": false,
                "rope_scaling": {
                    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192, "rope_type": "llama3"
                },
                "torch_dtype": "bfloat16", "vocab_size": 128256
            }),
            8_030_261_248,
            (8, 128, 131_072),
        ),
        (
            "Llama 3.2 1B",
            json!({
                "architectures": ["LlamaForCausalLM"], "head_dim": 64, "hidden_act": "silu",
                "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
                "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
                "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
                "rope_scaling": {
                    "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192, "rope_type": "llama3"
                },
                "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": 128256
            }),
            1_235_814_400,
            (8, 64, 131_072),
        ),
        (
            "TinyLlama 1.1B",
            json!({
                "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 2048,
                "intermediate_size": 5632, "max_position_embeddings": 2048, "model_type": "llama",
                "num_attention_heads": 32, "num_hidden_layers": 22, "num_key_value_heads": 4,
                "rms_norm_eps": 1e-05, "rope_scaling": null, "tie_word_embeddings": false,
                "torch_dtype": "float32", "vocab_size": 32000
            }),
            1_100_048_384,
            (4, 64, 2048),
        ),
        (
            "SmolLM2 135M",
            json!({
                "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 576,
                "intermediate_size": 1536, "max_position_embeddings": 8192, "model_type": "llama",
                "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
                "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
                "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
                "vocab_size": 49152
            }),
            134_515_008,
            (3, 64, 8192),
        ),
        (
            "Mistral 7B v0.3",
            json!({
                "architectures": ["MistralForCausalLM"], "head_dim": 128, "hidden_act": "silu",
                "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
                "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
                "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
                "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
                "vocab_size": 32768
            }),
            7_248_023_552,
            (8, 128, 32_768),
        ),
        (
            "Qwen2.5 0.5B",
            json!({
                "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "hidden_size": 896,
                "intermediate_size": 4864, "max_position_embeddings": 32768,
                "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
                "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
                "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
                "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936
            }),
            494_032_768,
            (2, 64, 32_768),
        ),
        (
            "Qwen3 0.6B",
            json!({
                "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128,
                "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
                "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
                "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
                "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000,
                "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
                "use_sliding_window": false, "vocab_size": 151936
            }),
            596_049_920,
            (8, 128, 40_960),
        ),
        (
            "Qwen3-30B-A3B",
            json!({
                "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
                "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645,
                "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
                "intermediate_size": 6144, "max_position_embeddings": 40960,
                "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
                "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
                "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
                "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_scaling": null,
                "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
                "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 151936
            }),
            30_532_122_624,
            (4, 128, 40_960),
        ),
        (
            "Mixtral-8x7B-v0.1",
            json!({
                "architectures": ["MixtralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
                "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
                "max_position_embeddings": 32768, "model_type": "mixtral",
                "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32,
                "num_key_value_heads": 8, "num_local_experts": 8, "rms_norm_eps": 1e-05,
                "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false,
                "torch_dtype": "bfloat16", "vocab_size": 32000
            }),
            46_702_792_704,
            (8, 128, 32_768),
        ),
        (
            "gemma-3-1b-it",
            json!({
                "architectures": ["Gemma3ForCausalLM"], "attention_bias": false,
                "attn_logit_softcapping": null, "bos_token_id": 2, "eos_token_id": [1, 106],
                "final_logit_softcapping": null, "head_dim": 256,
                "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
                "intermediate_size": 6912, "max_position_embeddings": 32768,
                "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26,
                "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
                "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
                "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
                "vocab_size": 262144
            }),
            999_885_952,
            (1, 256, 32_768),
        ),
    ];
    for (name, config, n_parameters, sizes) in table {
        let config = read(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.n_parameters(), n_parameters, "{name}");
        let bytes = |format| config.weight_bytes(DType::F16, format).unwrap();
        assert_eq!(bytes(WeightFormat::Full), 2 * n_parameters, "{name}");
        // Embeddings and output projection are not rounded.
        let tables = if config.tie_word_embeddings { 1 } else { 2 };
        let rounded = n_parameters - (tables * config.vocab_size * config.d_model) as u64;
        for (format, bits) in [(WeightFormat::Int8, 8.0), (WeightFormat::Int4, 4.0)] {
            let saved = 2 * n_parameters - bytes(format);
            // Scales and zero points of a group take 16 bits each; groups are of 128, 64 or 32.
            let found = 16.0 - 8.0 * saved as f64 / rounded as f64;
            assert!(
                (bits + 0.1..bits + 0.6).contains(&found),
                "{name}, {format}: {found}"
            );
        }
        let found = (config.n_kv_heads, config.head_dim, config.max_positions);
        assert_eq!(found, sizes, "{name}");
    }
}
