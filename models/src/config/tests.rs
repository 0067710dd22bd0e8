use std::fs;

use quest_burn::attention::RopeScaling;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A folder with these files; none where the text is empty.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn read(config: &Value) -> Result<ModelConfig, ModelError> {
    let dir = folder(&[(ModelConfig::FILE, &config.to_string())]);
    ModelConfig::from_dir(dir.path())
}

/// The one-line message, with the folder left out.
fn error(config: &Value) -> String {
    let dir = folder(&[(ModelConfig::FILE, &config.to_string())]);
    let error = ModelConfig::from_dir(dir.path()).unwrap_err();
    message(&error, &dir)
}

fn message(error: &ModelError, dir: &TempDir) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    assert!(!message.contains('\n'), "{message}");
    message.replace(&format!("{}/", dir.path().display()), "")
}

/// A small Llama with some fields changed; a null removes its field.
fn llama(changes: Value) -> Value {
    changed(
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 512
        }),
        changes,
    )
}

fn of_class(class: &str, changes: Value) -> Value {
    let config = changed(
        llama(json!({ "model_type": null })),
        json!({ "architectures": [class] }),
    );
    changed(config, changes)
}

fn changed(mut config: Value, changes: Value) -> Value {
    let fields = config.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(fields.remove(name)),
            value => drop(fields.insert(name.clone(), value.clone())),
        }
    }
    config
}

/// As [`changed`], but a null stays a null.
fn with_null(mut config: Value, name: &str) -> Value {
    config
        .as_object_mut()
        .unwrap()
        .insert(name.into(), Value::Null);
    config
}

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
    ];
    for (name, config, n_parameters, sizes) in table {
        let config = read(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.n_parameters(), n_parameters, "{name}");
        let found = (config.n_kv_heads, config.head_dim, config.max_positions);
        assert_eq!(found, sizes, "{name}");
        assert_eq!(config.sliding_window, None, "{name}");
    }
}

#[test]
fn architectures_differ_in_biases_and_norms() {
    let parts = |class, changes| {
        let config = read(&of_class(class, changes)).unwrap();
        (
            config.qkv_bias,
            config.output_bias,
            config.mlp_bias,
            config.qk_norm,
        )
    };
    let biases = json!({ "attention_bias": true, "mlp_bias": true, "num_key_value_heads": 2 });
    assert_eq!(
        parts("LlamaForCausalLM", json!({})),
        (false, false, false, false)
    );
    assert_eq!(
        parts("LlamaForCausalLM", biases.clone()),
        (true, true, true, false)
    );
    assert_eq!(
        parts("MistralForCausalLM", biases.clone()),
        (false, false, false, false)
    );
    assert_eq!(
        parts("Qwen2ForCausalLM", biases.clone()),
        (true, false, false, false)
    );
    assert_eq!(parts("Qwen3ForCausalLM", biases), (true, true, false, true));
    let few_heads = json!({ "num_key_value_heads": 2 });
    assert_eq!(
        parts("Qwen3ForCausalLM", few_heads),
        (false, false, false, true)
    );
}

#[test]
fn absent_fields_mean_what_transformers_takes_them_for() {
    let config = read(&llama(json!({ "max_position_embeddings": null }))).unwrap();
    assert_eq!(
        (config.n_kv_heads, config.head_dim, config.max_positions),
        (4, 16, 2048)
    );
    assert_eq!(config.rope, RopeConfig::new());
    assert_eq!(config.rms_norm_epsilon, 1e-6);
    assert_eq!(
        (
            config.dtype,
            config.bos_token_id,
            config.tie_word_embeddings
        ),
        (None, None, false)
    );
    assert!(config.stop_token_ids.is_empty());

    for name in ["num_key_value_heads", "head_dim"] {
        assert_eq!(
            read(&with_null(llama(json!({})), name)).unwrap().n_kv_heads,
            4
        );
    }

    let heads = json!({ "num_attention_heads": 32, "max_position_embeddings": null });
    let defaults = |class| {
        let config = read(&of_class(class, heads.clone())).unwrap();
        (
            config.n_kv_heads,
            config.head_dim,
            config.max_positions,
            config.sliding_window,
        )
    };
    assert_eq!(defaults("MistralForCausalLM"), (8, 2, 4096, Some(4096)));
    assert_eq!(defaults("Qwen2ForCausalLM"), (32, 2, 32_768, None));
    assert_eq!(defaults("Qwen3ForCausalLM"), (32, 128, 32_768, None));
    let null = with_null(
        of_class("MistralForCausalLM", heads.clone()),
        "num_key_value_heads",
    );
    assert_eq!(read(&null).unwrap().n_kv_heads, 32);
}

#[test]
fn the_model_type_names_the_architecture_where_no_class_does() {
    let config = llama(json!({ "architectures": null, "model_type": "qwen2" }));
    let config = changed(config, json!({ "num_key_value_heads": 2 }));
    assert_eq!(read(&config).unwrap().architecture, Architecture::Qwen2);
}

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

    let scaling = json!({ "rope_scaling": { "factor": 8.0, "type": "linear" } });
    let config = read(&llama(scaling.clone())).unwrap();
    assert_eq!(
        (config.rope.scaling, config.max_positions),
        (linear.clone(), 4096)
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

#[test]
fn stop_ids_come_from_the_generation_config_first() {
    let stop_ids = |config: Value, generation: Option<&str>| {
        let config = llama(config).to_string();
        let mut files = vec![(ModelConfig::FILE, config.as_str())];
        files.extend(generation.map(|text| (ModelConfig::GENERATION_FILE, text)));
        let dir = folder(&files);
        ModelConfig::from_dir(dir.path())
            .map(|config| config.stop_token_ids)
            .map_err(|error| message(&error, &dir))
    };
    assert_eq!(stop_ids(json!({ "eos_token_id": 2 }), None), Ok(vec![2]));
    assert_eq!(
        stop_ids(json!({ "eos_token_id": [2, 3] }), None),
        Ok(vec![2, 3])
    );
    let two = json!({ "eos_token_id": 2 });
    assert_eq!(
        stop_ids(two.clone(), Some(r#"{"eos_token_id": [7, 8]}"#)),
        Ok(vec![7, 8])
    );
    assert_eq!(
        stop_ids(two.clone(), Some(r#"{"eos_token_id": null}"#)),
        Ok(vec![2])
    );
    assert_eq!(stop_ids(two.clone(), Some("{}")), Ok(vec![2]));
    assert_eq!(
        stop_ids(two.clone(), Some(r#"{"eos_token_id": "</s>"}"#)).unwrap_err(),
        "generation_config.json: field `eos_token_id`: expected a token id or a list of token ids"
    );
    let garbled = stop_ids(two, Some("{")).unwrap_err();
    assert!(
        garbled.starts_with("generation_config.json: expected a JSON object: "),
        "{garbled}"
    );
}

#[test]
fn what_is_not_supported_is_named() {
    let mamba = of_class("MambaForCausalLM", json!({}));
    assert_eq!(
        error(&mamba),
        "config.json: unsupported architecture `MambaForCausalLM`; supported: LlamaForCausalLM, \
         MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
    );
    let by_type = llama(json!({ "architectures": null, "model_type": "gemma" }));
    assert!(error(&by_type).contains("unsupported architecture `gemma`"));
    for kind in ["dynamic", "longrope", "mrope"] {
        let config = llama(json!({ "rope_scaling": { "type": kind, "factor": 2.0 } }));
        assert_eq!(
            error(&config),
            format!(
                "config.json: unsupported RoPE type `{kind}`; supported: default, linear, llama3, yarn"
            )
        );
    }
    for (changes, expected) in [
        (
            json!({ "hidden_act": "gelu" }),
            "unsupported hidden_act `gelu`; supported: silu",
        ),
        (
            json!({ "dtype": "float8_e4m3fn" }),
            "unsupported dtype `float8_e4m3fn`",
        ),
        (
            json!({ "partial_rotary_factor": 0.5 }),
            "unsupported partial_rotary_factor `0.5`",
        ),
        (
            json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } }),
            "unsupported quantization `gptq`",
        ),
        (
            json!({ "rope_parameters": { "full_attention": { "rope_theta": 1e4 } } }),
            "unsupported kind of layers `rope parameters of full_attention`",
        ),
    ] {
        let error = error(&llama(changes));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn fields_that_are_missing_or_wrong_are_named() {
    for name in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    ] {
        let error = error(&llama(json!({ name: null })));
        assert_eq!(
            error,
            format!("config.json: expected field `{name}`, found none")
        );
    }
    let no_architecture = llama(json!({ "architectures": null, "model_type": null }));
    assert_eq!(
        error(&no_architecture),
        "config.json: expected field `architectures`, found none"
    );
    for (changes, expected) in [
        (
            json!({ "hidden_size": "large" }),
            "field `hidden_size`: invalid type: string \"large\", expected usize",
        ),
        (
            json!({ "vocab_size": -1 }),
            "field `vocab_size`: invalid value: integer `-1`, expected usize",
        ),
        (
            json!({ "num_hidden_layers": 0 }),
            "field `num_hidden_layers`: expected a number from 1 to 4096, found 0",
        ),
        (
            json!({ "vocab_size": 1_000_000_000_000_000_000_u64 }),
            "field `vocab_size`: expected a number from 1 to 16777216, found 1000000000000000000",
        ),
        (
            json!({ "num_key_value_heads": 3 }),
            "field `num_key_value_heads`: expected a divisor of the 4 attention heads, found 3",
        ),
        (
            json!({ "num_attention_heads": 5 }),
            "field `hidden_size`: expected a multiple of the 5 attention heads, found 64",
        ),
        (
            json!({ "head_dim": 15 }),
            "the rotary embedding cannot be used: RoPE: expected an even head dim of at least 2, \
             found 15",
        ),
        (
            json!({ "rms_norm_eps": 0.0 }),
            "field `rms_norm_eps`: expected a number from 0 to 1, found 0",
        ),
        (
            json!({ "rope_scaling": { "type": "linear" } }),
            "expected field `rope_scaling.factor`, found none",
        ),
        (
            json!({ "rope_scaling": { "factor": 2.0 } }),
            "expected field `rope_scaling.rope_type`, found none",
        ),
        (
            json!({ "rope_parameters": { "rope_type": "llama3", "factor": "8" } }),
            "field `rope_parameters.factor`: invalid type: string \"8\", expected f64",
        ),
        (
            json!({ "rope_scaling": { "type": "linear", "factor": 0.5 } }),
            "the rotary embedding cannot be used: RoPE scaling: expected factor as a finite number \
             of at least 1, found 0.5",
        ),
        (
            json!({ "rope_scaling": [] }),
            "field `rope_scaling`: invalid type: sequence, expected a map",
        ),
    ] {
        assert_eq!(error(&llama(changes)), format!("config.json: {expected}"));
    }
}

#[test]
fn files_that_are_absent_or_garbled_are_named() {
    let dir = folder(&[]);
    let error = ModelConfig::from_dir(dir.path()).unwrap_err();
    assert!(message(&error, &dir).starts_with("config.json: expected a readable file: No such"));

    let absent = dir.path().join("absent");
    let error = ModelConfig::from_dir(&absent).unwrap_err();
    assert_eq!(
        message(&error, &dir),
        "absent: expected a folder with a model, found nothing"
    );

    for (text, expected) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        (
            r#"{"architectures": ["LlamaFor"#,
            "EOF while parsing a string at line 1 column 28",
        ),
        (
            "[1, 2]",
            "invalid type: sequence, expected a map at line 1 column 0",
        ),
        ("\u{fffd}", "expected value at line 1 column 1"),
    ] {
        let dir = folder(&[(ModelConfig::FILE, text)]);
        let error = ModelConfig::from_dir(dir.path()).unwrap_err();
        let expected = format!("config.json: expected a JSON object: {expected}");
        assert_eq!(message(&error, &dir), expected);
    }
}

#[test]
fn a_config_survives_its_own_json() {
    let config = read(&llama(json!({
        "rope_scaling": { "type": "yarn", "factor": 4.0 }, "torch_dtype": "float16",
        "eos_token_id": 2
    })))
    .unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ModelConfig>(&text).unwrap(), config);
}

#[test]
fn the_cache_has_the_shape_of_the_model() {
    let config = read(&llama(json!({ "num_key_value_heads": 2 }))).unwrap();
    let cache = config.cache(16, 2, 100);
    assert_eq!(
        (cache.n_layers, cache.n_kv_heads, cache.head_dim),
        (3, 2, 16)
    );
    assert_eq!((cache.page_size, cache.batch, cache.n_pages), (16, 2, 14));
}
