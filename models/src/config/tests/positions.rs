use quest_burn::attention::RopeScaling;

use super::*;

#[test]
fn both_generations_say_the_same() {
    let yarn = json!({
        "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16, "truncate": false
    });
    let typed = |name: &str| changed(yarn.clone(), json!({ name: "yarn" }));
    let newer = llama(json!({
        "rope_parameters": changed(typed("rope_type"), json!({ "rope_theta": 5e5 })),
        "dtype": "bfloat16"
    }));
    let expected = read(&newer).unwrap();
    assert_eq!(expected.rope.theta, 5e5);
    assert_eq!(expected.dtype, Some(DType::BF16));
    for name in ["rope_type", "type"] {
        let older = llama(json!({
            "rope_theta": 5e5, "rope_scaling": typed(name), "torch_dtype": "bfloat16"
        }));
        assert_eq!(read(&older).unwrap(), expected);
    }
}

#[test]
fn longchat_is_linear_in_both_its_forms() {
    let linear = RopeScaling::Linear { factor: 8.0 };
    let config = read(&llama(json!({ "rope_condense_ratio": 8 }))).unwrap();
    assert_eq!(
        (config.rope.scaling, config.max_positions),
        (linear.clone(), 4096)
    );

    // The context after the stretching, unless another one is stated.
    let scaling = json!({ "rope_scaling": { "factor": 8.0, "type": "linear" } });
    let config = read(&llama(scaling.clone())).unwrap();
    assert_eq!(
        (config.rope.scaling, config.max_positions),
        (linear.clone(), 512)
    );
    let stated = changed(scaling, json!({ "max_sequence_length": 2048 }));
    assert_eq!(read(&llama(stated)).unwrap().max_positions, 2048);

    let newer = json!({ "rope_parameters": { "factor": 8.0, "rope_type": "linear" } });
    let config = read(&llama(newer)).unwrap();
    assert_eq!((config.rope.scaling, config.max_positions), (linear, 512));
}

#[test]
fn yarn_finds_its_original_context_in_either_place() {
    let original = |changes| {
        let config = read(&llama(changes)).unwrap();
        let RopeScaling::Yarn {
            factor,
            original_max_positions,
            ..
        } = config.rope.scaling
        else {
            panic!("expected YaRN, found {:?}", config.rope.scaling)
        };
        (factor, original_max_positions, config.max_positions)
    };
    let inside = json!({
        "rope_scaling": { "type": "yarn", "factor": 32.0, "original_max_position_embeddings": 64 }
    });
    assert_eq!(original(inside.clone()), (32.0, 64, 2048));
    let outside = changed(inside, json!({ "original_max_position_embeddings": 32 }));
    assert_eq!(original(outside), (32.0, 32, 1024));
    let nowhere = json!({ "rope_scaling": { "type": "yarn", "factor": 32.0 } });
    assert_eq!(original(nowhere), (32.0, 512, 512));
    let no_factor =
        json!({ "rope_scaling": { "type": "yarn", "original_max_position_embeddings": 128 } });
    assert_eq!(original(no_factor), (4.0, 128, 512));
}

#[test]
fn one_list_of_factors_is_read_as_longrope() {
    let factors = vec![1.0, 1.0, 2.0, 2.5, 4.0, 8.0, 8.0, 8.0];
    let scaling = |changes| {
        let scaling = json!({
            "rope_type": "longrope", "short_factor": factors, "long_factor": factors,
            "attention_factor": 1.0,
        });
        llama(json!({ "rope_scaling": changed(scaling, changes) }))
    };
    let config = read(&scaling(json!({}))).unwrap();
    let expected = RopeScaling::Factors {
        factors: factors.clone(),
    };
    assert_eq!(config.rope.scaling, expected);
    for changes in [
        json!({ "long_factor": [9.0, 1.0, 2.0, 2.5, 4.0, 8.0, 8.0, 8.0] }),
        json!({ "attention_factor": null }),
        json!({ "attention_factor": 1.2 }),
    ] {
        let error = error(&scaling(changes));
        assert!(
            error.contains("unsupported RoPE type `longrope`"),
            "{error}"
        );
    }
    let few = json!({ "short_factor": [1.0], "long_factor": [1.0] });
    let error = error(&scaling(few));
    assert!(error.contains("expected 8 factors"), "{error}");
}

#[test]
fn an_active_sliding_window_limits_the_context() {
    let window = |class, changes| {
        let config = changed(json!({ "num_key_value_heads": 2, "head_dim": 16 }), changes);
        let config = read(&of_class(class, config)).unwrap();
        (config.sliding_window, config.max_positions)
    };
    let mistral = |changes| window("MistralForCausalLM", changes);
    assert_eq!(mistral(json!({ "sliding_window": 128 })), (Some(128), 128));
    assert_eq!(mistral(json!({ "sliding_window": 512 })), (None, 512));
    assert_eq!(
        window("LlamaForCausalLM", json!({ "sliding_window": 128 })),
        (None, 512)
    );

    let qwen = |changes| {
        window(
            "Qwen3ForCausalLM",
            changed(json!({ "sliding_window": 128 }), changes),
        )
    };
    assert_eq!(qwen(json!({})), (None, 512));
    assert_eq!(qwen(json!({ "use_sliding_window": true })), (None, 512));
    let some_layers = json!({ "use_sliding_window": true, "max_window_layers": 2 });
    assert_eq!(qwen(some_layers.clone()), (Some(128), 128));
    let none = json!({ "layer_types": ["full_attention", "full_attention", "full_attention"] });
    assert_eq!(qwen(changed(some_layers.clone(), none)), (None, 512));
    let one = json!({ "layer_types": ["full_attention", "sliding_attention", "full_attention"] });
    assert_eq!(qwen(changed(some_layers, one)), (Some(128), 128));
}
