use super::*;
use crate::error::MisshapenTensor;

#[test]
fn every_difference_is_reported_at_once() {
    let config = config(json!({ "num_hidden_layers": 1, "attention_bias": false }));
    let mut tensors = tensors(&config);
    tensors.remove("model.layers.0.mlp.up_proj.weight");
    tensors.remove("lm_head.weight");
    tensors.insert(
        "model.layers.1.input_layernorm.weight".into(),
        Stored::new(&[16], 0),
    );
    tensors.insert(
        "model.layers.0.self_attn.q_proj.weight".into(),
        Stored::new(&[16, 8], 0),
    );
    tensors.get_mut("model.norm.weight").unwrap().dtype = DType::I64;
    let dir = tempfile::tempdir().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);

    let ModelError::Mismatch { mismatch, .. } = load_f32(&dir, &config).unwrap_err() else {
        panic!("expected a mismatch")
    };
    let name = |name: &str| name.to_string();
    assert_eq!(
        mismatch.missing,
        [
            (name("model.layers.0.mlp.up_proj.weight"), vec![24, 16]),
            (name("lm_head.weight"), vec![20, 16])
        ]
    );
    let unexpected = [(name("model.layers.1.input_layernorm.weight"), vec![16])];
    assert_eq!(mismatch.unexpected, unexpected);
    assert_eq!(
        mismatch.misshapen,
        [MisshapenTensor {
            name: name("model.layers.0.self_attn.q_proj.weight"),
            expected: vec![16, 16],
            found: vec![16, 8],
        }]
    );
    assert_eq!(
        mismatch.not_float,
        [(name("model.norm.weight"), DType::I64)]
    );
    assert!(error(&dir, &config).ends_with(
        "the tensors are not those of the model: 2 missing: model.layers.0.mlp.up_proj.weight \
         [24, 16], lm_head.weight [20, 16]; 1 unexpected: model.layers.1.input_layernorm.weight \
         [16]; 1 of another shape: model.layers.0.self_attn.q_proj.weight (expected [16, 16], \
         found [16, 8]); 1 not floating-point: model.norm.weight (I64)"
    ));
}

#[test]
fn files_that_are_absent_are_named() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    assert!(error(&dir, &config).ends_with(
        "expected weights in one of model.safetensors, model.safetensors.index.json, \
         pytorch_model.bin, pytorch_model.bin.index.json, model.bpk, found none"
    ));
    let shards = write_shards(
        &dir,
        "model.safetensors",
        &tensors(&config),
        write_safetensors,
    );
    fs::remove_file(dir.path().join(&shards[1])).unwrap();
    assert_eq!(
        error(&dir, &config),
        "model.safetensors.index.json: expected the file `model-00002-of-00003.safetensors` that \
         it lists, found none"
    );
}

#[test]
fn an_index_that_makes_no_sense_is_named() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    for (index, expected) in [
        ("", "expected a JSON object"),
        ("{}", "expected field `weight_map`, found none"),
        (
            r#"{"weight_map": {}}"#,
            "field `weight_map`: expected at least one tensor, found none",
        ),
        (
            r#"{"weight_map": {"a": 1}}"#,
            "field `weight_map`: invalid type: integer `1`",
        ),
        (
            r#"{"weight_map": {"a": "../b"}}"#,
            "field `weight_map`: expected files inside the folder, found `../b`",
        ),
    ] {
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        let error = error(&dir, &config);
        assert!(
            error.starts_with(&format!("model.safetensors.index.json: {expected}")),
            "{error}"
        );
    }
}

#[test]
fn a_tensor_in_two_files_is_refused() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    let all = tensors(&config);
    let shards = write_shards(&dir, "model.safetensors", &all, write_safetensors);
    write_safetensors(&dir.path().join(&shards[2]), &all);
    let error = error(&dir, &config);
    assert!(
        error.starts_with("model-00003-of-00003.safetensors: tensor `"),
        "{error}"
    );
    assert!(
        error.ends_with("is in model-00001-of-00003.safetensors as well"),
        "{error}"
    );
}

/// Cut anywhere, both formats give an error that names the file.
#[test]
fn truncated_files_are_named() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let tensors = tensors(&config);
    for (single, write) in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(single);
        write(&path, &tensors);
        let whole = fs::read(&path).unwrap();
        let cuts = (0..40)
            .chain((40..whole.len()).step_by(97))
            .chain([whole.len() - 1]);
        for cut in cuts {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = error(&dir, &config);
            let format = if single.ends_with("bin") {
                "PyTorch"
            } else {
                "safetensors"
            };
            let start =
                format!("{single}: expected {format} weights, found a truncated or garbled");
            assert!(error.starts_with(&start), "cut at {cut}: {error}");
        }
    }
}

/// Any byte changed, loading gives a model or an error, and does not panic.
#[test]
fn garbled_files_do_not_panic() {
    let config = config(json!({ "num_hidden_layers": 1, "hidden_size": 4, "vocab_size": 4 }));
    let tensors = tensors(&config);
    for (single, write) in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(single);
        write(&path, &tensors);
        let whole = fs::read(&path).unwrap();
        for place in (0..whole.len()).step_by(13) {
            let mut garbled = whole.clone();
            garbled[place] ^= 1 << (place % 8);
            fs::write(&path, &garbled).unwrap();
            if let Err(error) = load_f32(&dir, &config) {
                message(error, &dir);
            }
        }
    }
}

/// A storage whose bytes do not match their checksum is found when it is read.
#[test]
fn a_wrong_checksum_names_file_and_tensor() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pytorch_model.bin");
    write_pytorch(&path, &tensors(&config));
    let mut file = fs::read(&path).unwrap();
    let entry = b"archive/data/0";
    let start = file
        .windows(entry.len())
        .position(|window| window == entry)
        .unwrap();
    file[start + entry.len() + 5] ^= 1;
    fs::write(&path, &file).unwrap();
    let error = error(&dir, &config);
    assert!(
        error.starts_with("pytorch_model.bin: expected PyTorch weights"),
        "{error}"
    );
    assert!(
        error.contains("lm_head.weight") && error.contains("checksum"),
        "{error}"
    );
}

#[test]
fn a_dtype_that_is_not_read_is_named() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    let header = json!({ "a": { "dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4] } });
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes().chain([0; 4]));
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let error = error(&dir, &config);
    assert!(
        error.starts_with(
            "model.safetensors: unsupported type `F8_E4M3` of tensor `a`; supported: F64"
        ),
        "{error}"
    );
}

#[test]
fn files_of_another_format_are_named() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    write_pytorch(&path, &tensors(&config));
    assert!(error(&dir, &config).contains("it is a PyTorch file"));
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("consolidated.00.pth"), "x").unwrap();
    assert!(error(&dir, &config).ends_with("found consolidated.00.pth"));
}

#[test]
fn files_of_something_else_are_named() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    for name in ["model.safetensors", "pytorch_model.bin"] {
        fs::write(dir.path().join(name), pointer).unwrap();
        assert!(error(&dir, &config).contains("it is a Git LFS pointer to the weights"));
        fs::write(dir.path().join(name), "").unwrap();
        assert!(error(&dir, &config).contains("it is empty"));
        fs::remove_file(dir.path().join(name)).unwrap();
    }
}
