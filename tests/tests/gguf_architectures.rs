//! GGUF files of the architectures that llama.cpp names and lays out in a way of their own, against the
//! folders that they are made of.

use std::{fs, ops::ControlFlow, path::Path};

use burn::tensor::{DType, Device};
use quest_burn_linear::blocks::BlockFormat;
use quest_burn_models::{
    config::{Architecture, ModelConfig},
    convert::{Conversion as Folder, convert},
    source,
};
use quest_burn_tests::{
    arrays::assert_close,
    fixtures::{self, Fixture},
    gguf::{Gguf, GgufTensor, Meta},
    gguf_of_folder::Conversion,
    loaded::Loaded,
};
use serde_json::{Value, json};
use tempfile::TempDir;

type Change = fn(&mut Value);

/// Of a fixture: ggml's name, and changes to the folder's configuration where a file cannot say what it
/// says.
const FILES: [(&str, &str, Change); 6] = [
    ("gemma2", "gemma2", |config| {
        config["query_pre_attn_scalar"] = json!(16);
    }),
    ("phi3", "phi3", |_| ()),
    ("gemma3", "gemma3", |config| {
        config["query_pre_attn_scalar"] = json!(16);
    }),
    ("qwen3-moe", "qwen3moe", |_| ()),
    ("mixtral", "llama", |_| ()),
    ("mistral-window", "llama", |_| ()),
];

struct Pair {
    fixture: Fixture,
    gguf: Gguf,
    /// The folder that says the same.
    folder: TempDir,
}

impl Pair {
    fn new(name: &str, format: BlockFormat) -> Self {
        let mut files = FILES.iter();
        let (_, architecture, change) = files.find(|(known, ..)| *known == name).unwrap();
        let mut fixtures = fixtures::architectures().into_iter();
        let fixture = fixtures.find(|fixture| fixture.name == name).unwrap();
        let conversion = Conversion {
            architecture,
            format,
        };
        let mut gguf = conversion.of_folder(&fixture.dir);
        if *architecture == "phi3" {
            gguf.set("phi3.rope.dimension_count", Meta::U32(12));
        }
        if *architecture == "gemma3" {
            gguf.set("gemma3.attention.sliding_window_pattern", Meta::U32(2));
        }
        let folder = tempfile::tempdir().unwrap();
        let config = fs::read(fixture.dir.join("config.json")).unwrap();
        let mut config = serde_json::from_slice(&config).unwrap();
        change(&mut config);
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let weights = "model.safetensors";
        fs::copy(fixture.dir.join(weights), folder.path().join(weights)).unwrap();
        Self {
            fixture,
            gguf,
            folder,
        }
    }
}

fn nlls(path: &Path, ids: &[u32]) -> Vec<f64> {
    Loaded::stored(path, &Device::default(), DType::F32).dense_nlls(ids)
}

/// Once more with the model in the form that is trained, whose weights are all widened.
fn widened_nlls(path: &Path, ids: &[u32]) -> Vec<f64> {
    Loaded::new(path, &Device::default(), DType::F32).dense_nlls(ids)
}

#[test]
fn likelihoods_are_those_of_the_folder() {
    for (name, ..) in FILES {
        let pair = Pair::new(name, BlockFormat::F32);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        pair.gguf.write(&file);
        let ids = &pair.fixture.golden.ids;
        let expected = nlls(pair.folder.path(), ids);
        assert_close(&nlls(&file, ids), &expected, 1e-5, name);
        assert_close(&widened_nlls(&file, ids), &expected, 1e-4, name);

        let converted = dir.path().join("folder");
        let source = source::open(&file).unwrap();
        let go_on = Box::new(|_, _| ControlFlow::Continue(()));
        convert(&*source, &converted, &Folder::default(), go_on).unwrap();
        let context = format!("{name}, converted");
        assert_close(&nlls(&converted, ids), &expected, 1e-5, &context);
    }
}

#[test]
fn configurations_are_those_of_the_folder() {
    for (name, ..) in FILES {
        let pair = Pair::new(name, BlockFormat::F32);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        pair.gguf.write(&file);
        let found = ModelConfig::from_dir(&file).unwrap();
        let expected = ModelConfig {
            dtype: found.dtype,
            ..ModelConfig::from_dir(pair.folder.path()).unwrap()
        };
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn experts_stay_in_their_blocks() {
    for name in ["qwen3-moe", "mixtral"] {
        let pair = Pair::new(name, BlockFormat::Q8_0);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        pair.gguf.write(&file);
        let ids = &pair.fixture.golden.ids;
        let (kept, widened) = (nlls(&file, ids), widened_nlls(&file, ids));
        assert_ne!(
            widened,
            nlls(pair.folder.path(), ids),
            "{name}: it is rounded"
        );
        // On the CPU activations are rounded to 8 bits where blocks are multiplied.
        let mean = |nlls: &[f64]| nlls.iter().sum::<f64>() / nlls.len() as f64;
        let difference = (mean(&kept) - mean(&widened)).abs();
        assert!(difference < 0.02, "{name}: {difference}");
    }
}

/// As Mixtral's first files have it.
#[test]
fn experts_may_be_tensors_of_their_own() {
    let mut pair = Pair::new("mixtral", BlockFormat::F32);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    let stacked = std::mem::take(&mut pair.gguf.tensors);
    for mut tensor in stacked {
        let Some((part, _)) = tensor.name.split_once("_exps") else {
            pair.gguf.tensors.push(tensor);
            continue;
        };
        let (part, count) = (part.to_owned(), tensor.shape.remove(0));
        for (expert, bytes) in tensor.bytes.chunks(tensor.bytes.len() / count).enumerate() {
            let mut tensor = tensor.clone();
            tensor.name = format!("{part}.{expert}.weight");
            tensor.bytes = bytes.to_vec();
            pair.gguf.tensors.push(tensor);
        }
    }
    pair.gguf.write(&file);
    let ids = &pair.fixture.golden.ids;
    assert_eq!(nlls(&file, ids), nlls(pair.folder.path(), ids));
}

fn error_of(name: &str, change: impl FnOnce(&mut Gguf)) -> String {
    let mut pair = Pair::new(name, BlockFormat::F32);
    change(&mut pair.gguf);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    pair.gguf.write(&file);
    let device = Device::default();
    let source = source::open(&file).unwrap();
    let error = source.config().map(|config| {
        quest_burn_models::weights::load(&file, &config, &device, DType::F32, &mut |_| ())
    });
    let error = match error {
        Ok(loaded) => loaded.unwrap_err(),
        Err(error) => error,
    };
    error.to_string()
}

#[test]
fn experts_that_are_not_those_of_the_metadata_are_named() {
    let error = error_of("qwen3-moe", |gguf| {
        gguf.set("qwen3moe.expert_count", Meta::U32(7));
    });
    assert!(error.contains("mlp.experts.6.down_proj.weight"), "{error}");
    let error = error_of("mixtral", |gguf| {
        let mut tensors = gguf.tensors.iter_mut();
        let experts = tensors.find(|tensor| tensor.name.contains("_exps"));
        let experts = experts.unwrap();
        experts.shape = vec![5, 32 * 64];
    });
    assert!(
        error.contains("expected the experts' matrices in"),
        "{error}"
    );
}

#[test]
fn factors_of_long_texts_are_refused() {
    let error = error_of("phi3", |gguf| {
        let factors = GgufTensor {
            name: "rope_factors_long.weight".into(),
            shape: vec![6],
            kind: 0,
            bytes: vec![0; 24],
        };
        gguf.tensors.push(factors);
    });
    assert!(
        error.contains("unsupported RoPE `factors of long texts"),
        "{error}"
    );
}

#[test]
fn what_a_file_says_decides_between_architectures_of_one_name() {
    let architecture = |name: &str, window: bool| {
        let mut pair = Pair::new(name, BlockFormat::F32);
        if !window {
            let is_window = |key: &str| key.ends_with("sliding_window");
            pair.gguf.pairs.retain(|(key, _)| !is_window(key));
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.gguf");
        pair.gguf.write(&file);
        ModelConfig::from_dir(&file).unwrap().architecture
    };
    assert_eq!(architecture("mixtral", false), Architecture::Mixtral);
    assert_eq!(architecture("mixtral", true), Architecture::Mixtral);
    assert_eq!(architecture("mistral-window", true), Architecture::Mistral);
    assert_eq!(architecture("mistral-window", false), Architecture::Llama);
}
