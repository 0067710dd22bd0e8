use quest_burn::attention::RopeScaling;

use super::*;

/// As its first release: most fields are absent, those of the text are inside.
fn gemma_4b() -> Value {
    json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "eos_token_id": [1, 106], "torch_dtype": "bfloat16", "mm_tokens_per_image": 256,
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": { "factor": 8.0, "rope_type": "linear" },
            "sliding_window": 1024
        },
        "vision_config": { "hidden_size": 1152, "model_type": "siglip_vision_model" }
    })
}

#[test]
fn a_model_that_sees_is_read_as_its_part_for_text() {
    let config = read(&gemma_4b()).unwrap();
    assert_eq!(config.architecture, Architecture::Gemma3);
    assert_eq!(
        (
            config.d_model,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim
        ),
        (2560, 8, 4, 256)
    );
    assert_eq!(
        (config.vocab_size, config.max_positions),
        (262_208, 131_072)
    );
    assert_eq!(config.stop_token_ids, [1, 106]);
    assert!(config.tie_word_embeddings);
    assert_eq!(config.rope.theta, 1e6);
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 8.0 });

    let blocks = config.blocks;
    assert!(blocks.qk_norm && blocks.output_norms && blocks.norms_less_one);
    assert_eq!(blocks.activation, Activation::GeluTanh);
    assert_eq!(blocks.attention_scale, Some(1.0 / 16.0));
    assert_eq!(blocks.embedding_scale, Some(2560f64.sqrt()));
    let windows = blocks.windows.unwrap();
    assert_eq!(windows.tokens, 1024);
    assert_eq!(windows.rope, Some(RopeConfig::new().with_theta(1e4)));
    let global = (0..34).filter(|layer| !windows.has(*layer));
    assert_eq!(global.collect::<Vec<_>>(), [5, 11, 17, 23, 29]);
}

#[test]
fn both_generations_say_the_same() {
    let older = read(&gemma_4b()).unwrap();
    let mut newer = gemma_4b();
    let text = newer["text_config"].as_object_mut().unwrap();
    text.remove("rope_scaling");
    let types = (1..=34).map(|n| match n % 6 {
        0 => "full_attention",
        _ => "sliding_attention",
    });
    text.insert("layer_types".into(), types.collect::<Value>());
    let rope = json!({
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 1e4 }
    });
    text.insert("rope_parameters".into(), rope);
    assert_eq!(read(&newer).unwrap(), older);
}

#[test]
fn what_gemma_3_does_not_have_is_refused() {
    for (field, value, expected) in [
        (
            "attn_logit_softcapping",
            json!(-50.0),
            "config.json: field `attn_logit_softcapping`: expected a number above 0, found -50",
        ),
        (
            "use_bidirectional_attention",
            json!(true),
            "config.json: unsupported attention `use_bidirectional_attention`; supported: causal",
        ),
        (
            "query_pre_attn_scalar",
            json!(0),
            "config.json: field `query_pre_attn_scalar`: expected a number above 0, found 0",
        ),
    ] {
        let mut config = gemma_4b();
        config["text_config"][field] = value;
        assert_eq!(error(&config), expected);
    }
    let gemma = of_class("GemmaForCausalLM", json!({}));
    assert!(error(&gemma).contains("unsupported architecture `GemmaForCausalLM`"));
}
