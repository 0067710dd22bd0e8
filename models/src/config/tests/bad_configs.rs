use super::*;

#[test]
fn what_is_not_supported_is_named() {
    let mamba = of_class("MambaForCausalLM", json!({}));
    assert_eq!(
        error(&mamba),
        "config.json: unsupported architecture `MambaForCausalLM`; supported: LlamaForCausalLM, \
         MistralForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, \
         Qwen3MoeForCausalLM, Llama4ForCausalLM, Llama4ForConditionalGeneration, \
         Phi3ForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3ForConditionalGeneration"
    );
    let of_own = llama(json!({ "architectures": ["MambaForCausalLM"], "model_type": "mamba" }));
    assert!(error(&of_own).contains("unsupported architecture `MambaForCausalLM`"));
    let by_type = llama(json!({ "architectures": null, "model_type": "gemma" }));
    assert!(error(&by_type).contains("unsupported architecture `gemma`"));
    for kind in ["dynamic", "longrope", "mrope"] {
        let config = llama(json!({ "rope_scaling": { "type": kind, "factor": 2.0 } }));
        assert_eq!(
            error(&config),
            format!(
                "config.json: unsupported RoPE type `{kind}`; supported: default, linear, llama3, yarn, \
                 longrope of one list of factors"
            )
        );
    }
    for (changes, expected) in [
        (
            json!({ "hidden_act": "gelu" }),
            "unsupported hidden_act `gelu`; supported: silu, gelu_pytorch_tanh",
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
            json!({ "quantization_config": { "quant_method": "bitsandbytes" } }),
            "unsupported quantization `bitsandbytes`; supported: weights in f32, f16 or bf16, gptq, awq",
        ),
        (
            json!({ "quantization_config": { "quant_method": "gptq", "bits": 3, "group_size": 128 } }),
            "unsupported bits `3`",
        ),
        (
            json!({ "quantization_config": { "quant_method": "awq", "bits": 8, "group_size": 128 } }),
            "unsupported bits `8`",
        ),
        (
            json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } }),
            "expected field `quantization_config.group_size`, found none",
        ),
        (
            json!({ "quantization_config": { "quant_method": "gptq", "bits": 4, "group_size": 24 } }),
            "`quantization_config.group_size`: expected -1 or a multiple of 16, found 24",
        ),
        (
            json!({ "quantization_config": {
                "quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"
            } }),
            "unsupported checkpoint_format `marlin`; supported: gptq, gptq_v2",
        ),
        (
            json!({ "quantization_config": {
                "quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"
            } }),
            "unsupported version `gemv`; supported: gemm",
        ),
        (
            json!({ "rope_parameters": { "chunked_attention": { "rope_theta": 1e4 } } }),
            "unsupported kind of layers `rope parameters of chunked_attention`",
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
    let expected = ": expected a folder with a model or a GGUF file, found an empty folder";
    assert!(error.to_string().ends_with(expected), "{error}");
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let error = ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("found a folder without config.json"),
        "{error}"
    );
    std::fs::write(dir.path().join("params.json"), "{}").unwrap();
    let error = ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("found a model in Meta's original form"),
        "{error}"
    );

    let absent = dir.path().join("absent");
    let error = ModelConfig::from_dir(&absent).unwrap_err();
    assert_eq!(
        message(&error, &dir),
        "absent: expected a folder with a model or a GGUF file, found nothing"
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
