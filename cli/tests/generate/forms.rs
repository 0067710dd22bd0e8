//! Devices, element types and forms of weights, and what is counted of them.

use burn::tensor::DType;

use super::*;

#[test]
fn info_counts_parameters_and_cache_bytes() {
    let spec = CheckpointSpec::default();
    let checkpoint = Checkpoint::new(&spec);
    let info = checkpoint.run_json("info", &["--context", "100", "--dtype", "f32"]);
    assert_eq!(info["architecture"], "Llama");
    // Embedding, output projection and last norm; attention, feed-forward and norms of a layer.
    let parameters = 2 * 160 * 64 + 64 + 4 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96 + 2 * 64);
    assert_eq!(info["parameters"], parameters);
    assert_eq!(info["weight_bytes"], 4 * parameters);
    assert_eq!(info["checkpoint_dtype"], "f32");
    assert_eq!(info["layers"], 4);
    assert_eq!(info["heads"], 4);
    assert_eq!(info["kv_heads"], 2);
    assert_eq!(info["head_dim"], 16);
    assert_eq!(info["rope"]["theta"], 10000.0);
    assert_eq!(info["context"], 1024);
    // 13 pages of 8 tokens; 4 layers, 2 heads of 16 channels, keys and values, 4 bytes.
    let row = 13 * 4 * 2 * 16 * 4;
    assert_eq!(info["kv_cache"]["tokens"], 100);
    assert_eq!(info["kv_cache"]["key_value_bytes"], 2 * 8 * row);
    // A mean, and a deviation that takes the room of 8 channels.
    assert_eq!(info["kv_cache"]["digest_bytes"], row + row / 2);

    let text = checkpoint.run_text("info", &[]);
    assert!(text.contains("1024 tokens in f32"), "{text}");

    // A byte per channel and a scale per row.
    let args = ["--context", "100", "--dtype", "f32", "--kv-cache", "int8"];
    let int8 = &checkpoint.run_json("info", &args)["kv_cache"];
    assert_eq!(int8["storage"], "int8");
    assert_eq!(int8["key_value_bytes"], 2 * 8 * 13 * 4 * 2 * (16 + 4));
    assert_eq!(int8["digest_bytes"], info["kv_cache"]["digest_bytes"]);
}

#[test]
fn a_checkpoint_in_half_precision_keeps_its_bits_on_a_cpu() {
    let checkpoint = Checkpoint::new(&CheckpointSpec {
        dtype: DType::BF16,
        ..CheckpointSpec::default()
    });
    let info = checkpoint.run_json("info", &["--device", "flex"]);
    let norms = 64 + 4 * 2 * 64;
    let parameters = info["parameters"].as_u64().unwrap();
    assert_eq!(
        (&info["dtype"], &info["weights"]),
        (&"f32".into(), &"bf16".into())
    );
    assert_eq!(info["weight_bytes"], 2 * (parameters - norms) + 4 * norms);
    let full = ["--device", "flex", "--weights", "full"];
    assert_eq!(
        checkpoint.run_json("info", &full)["weight_bytes"],
        4 * parameters
    );

    let ids = checkpoint.write_ids(&ids(PROMPT, CheckpointSpec::default().vocab_size));
    let ids = ids.to_str().unwrap();
    let nll = |args: &[&str]| {
        let args = [&["--ids", ids, "--device", "flex"], args].concat();
        let scored = checkpoint.run_json("perplexity", &args);
        (
            scored["mean_nll"].as_f64().unwrap(),
            scored["weights"].clone(),
        )
    };
    let (stored, full) = (nll(&[]), nll(&["--weights", "full"]));
    assert_eq!((stored.1, full.1), ("bf16".into(), "full".into()));
    assert!(
        (stored.0 - full.0).abs() < 1e-5,
        "{} and {}",
        stored.0,
        full.0
    );
}

#[test]
fn weights_in_fewer_bits_are_said_and_counted() {
    let (checkpoint, ids) = checkpoint();
    let full = checkpoint.run_json("perplexity", &["--ids", &ids]);
    assert_eq!(full["weights"], "full");
    let full_bytes = checkpoint.run_json("info", &["--dtype", "f32"])["weight_bytes"]
        .as_u64()
        .unwrap();
    // Weights of the projections of four layers, in groups of 64 or, in the last one, of 32.
    let (per_64, per_32) = (64 * (64 + 32 + 32 + 64) + 2 * 64 * 96, 64 * 96);
    let groups = per_64 / 64 + per_32 / 32;
    for (format, of_projections) in [
        ("int8", (per_64 + per_32) + 4 * groups),
        ("int4", (per_64 + per_32) / 2 + 8 * groups),
    ] {
        let form = ["--weights", format];
        let info = checkpoint.run_json("info", &[&["--dtype", "f32"], &form[..]].concat());
        assert_eq!(info["weights"], format);
        let saved = 4 * (4 * (per_64 + per_32) - of_projections);
        assert_eq!(info["weight_bytes"], full_bytes - saved, "{format}");
        let scored = checkpoint.run_json("perplexity", &[&["--ids", &ids], &form[..]].concat());
        assert_eq!(scored["weights"], format);
        assert_ne!(scored["mean_nll"], full["mean_nll"], "{format}");
        let output = checkpoint.run("info", &["--weights", "int3"]);
        assert_eq!(output.status.code(), Some(2));
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn both_cpu_devices_give_the_same_greedy_ids() {
    let (checkpoint, ids) = checkpoint();
    assert_eq!(
        greedy(&checkpoint, &ids, &["--device", "ndarray"]),
        greedy(&checkpoint, &ids, &["--device", "flex"])
    );
}

#[test]
fn auto_says_which_device_it_took() {
    let (checkpoint, _) = checkpoint();
    let output = checkpoint.run("info", &["--device", "auto"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.starts_with("device: "), "{stderr}");
}

#[test]
fn half_precision_is_taken_where_it_is_asked_for() {
    let (checkpoint, ids) = checkpoint();
    for dtype in ["f16", "bf16"] {
        let args = [
            "--ids",
            &ids,
            "--max-new-tokens",
            "3",
            "--ignore-eos",
            "--dtype",
            dtype,
        ];
        let generation = checkpoint.run_json("generate", &args);
        assert_eq!(generation["dtype"], dtype);
        assert_eq!(generation["ids"].as_array().unwrap().len(), 3);
    }
}
