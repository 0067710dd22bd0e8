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
fn layers_have_the_sliding_windows_that_transformers_gives_them() {
    let window = |class, changes| {
        let config = changed(
            json!({ "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 128 }),
            changes,
        );
        let config = read(&of_class(class, config)).unwrap();
        assert_eq!(config.max_positions, 512);
        let windows = config.blocks.windows?;
        Some((windows.tokens, windows.layers))
    };
    let mistral = |changes| window("MistralForCausalLM", changes);
    assert_eq!(mistral(json!({})), Some((128, vec![true; 3])));
    assert_eq!(mistral(json!({ "sliding_window": 512 })), None);
    assert_eq!(window("LlamaForCausalLM", json!({})), None);

    let qwen = |changes| window("Qwen3ForCausalLM", changes);
    assert_eq!(qwen(json!({})), None);
    assert_eq!(qwen(json!({ "use_sliding_window": true })), None);
    let some_layers = json!({ "use_sliding_window": true, "max_window_layers": 2 });
    assert_eq!(
        qwen(some_layers.clone()),
        Some((128, vec![false, false, true]))
    );
    let (full, sliding) = ("full_attention", "sliding_attention");
    let types = |types: [&str; 3]| changed(some_layers.clone(), json!({ "layer_types": types }));
    assert_eq!(qwen(types([full; 3])), None);
    let one = vec![false, true, false];
    assert_eq!(qwen(types([full, sliding, full])), Some((128, one)));

    let odd = |types: Value| {
        let config = json!({
            "num_key_value_heads": 2, "use_sliding_window": true, "layer_types": types
        });
        error(&of_class("Qwen2ForCausalLM", config))
    };
    assert_eq!(
        odd(json!([full])),
        "config.json: field `layer_types`: expected 3, one for each layer, found 1"
    );
    assert_eq!(
        odd(json!([full, full, "chunked_attention"])),
        "config.json: unsupported type of layer `chunked_attention`; supported: full_attention, \
         sliding_attention"
    );
}
