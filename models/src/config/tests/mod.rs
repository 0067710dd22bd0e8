mod bad_configs;
mod capturable;
mod experts;
mod gemma2;
mod gemma3;
mod llama4;

mod phi3;
mod positions;
mod tensors;
mod well_known;

use std::fs;

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

#[test]
fn architectures_differ_in_biases_and_norms() {
    let parts = |class, changes| {
        let config = read(&of_class(class, changes)).unwrap();
        (
            config.blocks.qkv_bias,
            config.blocks.output_bias,
            config.blocks.mlp_bias,
            config.blocks.qk_norm,
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
            config.blocks.windows.map(|windows| windows.tokens),
        )
    };
    assert_eq!(defaults("MistralForCausalLM"), (8, 2, 131_072, Some(4096)));
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

/// Older converters and fine-tuning programs spell the class in their own way.
#[test]
fn the_model_type_decides_where_the_class_is_odd() {
    for (class, model_type, expected) in [
        ("LLaMAForCausalLM", "llama", Architecture::Llama),
        ("LlamaModel", "llama", Architecture::Llama),
        ("MyMistral", "mistral", Architecture::Mistral),
        ("Qwen3ForCausalLM", "qwen2", Architecture::Qwen2),
        ("Qwen2ForCausalLM", "of_my_own", Architecture::Qwen2),
    ] {
        let config = json!({
            "architectures": [class], "model_type": model_type, "num_key_value_heads": 2,
        });
        let config = read(&llama(config)).unwrap();
        assert_eq!(config.architecture, expected, "{class}, {model_type}");
    }
}

#[test]
fn values_that_stand_for_nothing_are_taken_for_it() {
    let config = read(&llama(json!({
        "torch_dtype": "auto", "bos_token_id": -1, "pad_token_id": -1, "eos_token_id": [2, -1]
    })))
    .unwrap();
    assert_eq!((config.dtype, config.bos_token_id), (None, None));
    assert_eq!(config.stop_token_ids, [2]);
    let config = read(&llama(json!({ "torch_dtype": "float64" }))).unwrap();
    assert_eq!(config.dtype, Some(DType::F64));
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_json() {
    let text = format!("\u{feff}{}", llama(json!({})));
    let dir = folder(&[(ModelConfig::FILE, &text)]);
    ModelConfig::from_dir(dir.path()).unwrap();
}

#[test]
fn a_quantisation_may_stand_in_a_file_of_its_own() {
    let text = llama(json!({})).to_string();
    for (name, config, layout) in [
        (
            "quantize_config.json",
            json!({ "bits": 4, "group_size": 32 }),
            PackedLayout::Gptq,
        ),
        (
            "quant_config.json",
            json!({ "w_bit": 4, "q_group_size": 32 }),
            PackedLayout::Awq,
        ),
    ] {
        let config = config.to_string();
        let dir = folder(&[(ModelConfig::FILE, &text), (name, &config)]);
        let config = ModelConfig::from_dir(dir.path()).unwrap();
        let expected = StoredQuantization {
            layout,
            bits: 4,
            group_size: Some(32),
        };
        assert_eq!(config.quantization, Some(expected));
    }
}

#[test]
fn folders_that_are_no_models_say_what_they_are() {
    let adapter = r#"{ "base_model_name_or_path": "org/base", "peft_type": "LORA" }"#;
    let dir = folder(&[
        ("adapter_config.json", adapter),
        ("adapter_model.safetensors", "x"),
    ]);
    let error = ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("found a LoRA adapter for org/base: merge it"),
        "{error}"
    );

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let dir = folder(&[(ModelConfig::FILE, pointer)]);
    let error = ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("found a Git LFS pointer"), "{error}");
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
