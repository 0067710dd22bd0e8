//! Files against folders with the same weights.

use std::{fs, ops::ControlFlow, path::Path};

use burn::tensor::{DType, Device};
use quest_burn_linear::blocks::BlockFormat;
use quest_burn_models::{
    config::ModelConfig,
    convert::{Conversion, convert},
    source,
    weights::KeptWeights,
};
use quest_burn_tests::{
    arrays::assert_close,
    gguf::{Gguf, GgufSpec, Meta, Pair, VOCABULARY},
    loaded::Loaded,
};

use super::folder;

fn ids(n: usize) -> Vec<u32> {
    let ids = 0..n as u32;
    ids.map(|i| (i * i * 7 + 3) % VOCABULARY as u32).collect()
}

fn nlls(path: &Path) -> Vec<f64> {
    Loaded::new(path, &Device::default(), DType::F32).dense_nlls(&ids(40))
}

fn assert_same(spec: &GgufSpec) {
    let (dir, pair) = (folder(), Pair::new(spec));
    let file = dir.path().join("model.gguf");
    pair.gguf.write(&file);
    let hugging_face = folder();
    pair.write_folder(hugging_face.path());
    let expected_nlls = nlls(hugging_face.path());
    assert_eq!(nlls(&file), expected_nlls, "{spec:?}");

    let converted = folder();
    let source = source::open(&file).unwrap();
    let go_on = Box::new(|_, _| ControlFlow::Continue(()));
    convert(&*source, converted.path(), &Conversion::default(), go_on).unwrap();
    assert_eq!(nlls(converted.path()), expected_nlls, "{spec:?}, converted");
    let of_converted = ModelConfig::from_dir(converted.path()).unwrap();
    let dtype = match spec.format {
        BlockFormat::F16 => DType::F16,
        BlockFormat::BF16 => DType::BF16,
        _ => DType::F32,
    };
    assert_eq!(of_converted.dtype, Some(dtype), "{spec:?}");

    let config = ModelConfig::from_dir(&file).unwrap();
    let expected = ModelConfig::from_dir(hugging_face.path()).unwrap();
    for config in [config, of_converted] {
        let expected = ModelConfig {
            dtype: config.dtype,
            ..expected.clone()
        };
        assert_eq!(config, expected, "{spec:?}");
    }
}

#[test]
fn every_format_is_what_its_blocks_stand_for() {
    for (&format, seed) in BlockFormat::ALL.iter().zip(1..) {
        assert_same(&GgufSpec {
            format,
            seed,
            ..GgufSpec::default()
        });
    }
}

#[test]
fn every_architecture_is_as_its_folder() {
    for architecture in ["llama", "qwen2", "qwen3"] {
        for tied in [false, true] {
            assert_same(&GgufSpec {
                architecture,
                tied,
                format: BlockFormat::Q4_K,
                ..GgufSpec::default()
            });
        }
    }
}

/// Rows of a few tokens are rounded to 8 bits on the CPU, those of a prompt are not; logits are made of
/// single rows and of many.
#[test]
fn a_projection_to_logits_stays_in_its_form() {
    for format in [BlockFormat::Q6_K, BlockFormat::F16] {
        let kept = |tied| {
            let spec = GgufSpec {
                format,
                tied,
                ..GgufSpec::default()
            };
            let dir = folder();
            let file = dir.path().join("model.gguf");
            Pair::new(&spec).gguf.write(&file);
            let device = Device::flex();
            let stored = Loaded::stored(&file, &device, DType::F32).dense_nlls(&ids(40));
            assert_close(&stored, &nlls(&file), 1e-4, format.name());
            let source = source::open(&file).unwrap();
            let config = source.config().unwrap();
            let kept = KeptWeights::of(&*source, &config, &device).unwrap();
            kept.map_or((0, 0), |kept| (kept.weights, kept.bytes))
        };
        let (of_own, of_embedding) = (kept(false), kept(true));
        let head = (VOCABULARY * 256) as u64;
        assert_eq!(of_own.0, of_embedding.0 + head, "{format}");
        // One that is the embedding too is there in both forms, unless tokens are looked up in halves.
        let shared = if format.is_integers() { 0 } else { 2 * head };
        assert_eq!(of_own.1, of_embedding.1 + shared, "{format}");
    }
}

#[test]
fn factors_of_the_rotary_frequencies_are_applied() {
    let factors = (0..32).map(|pair| 1.0 + pair as f32 / 4.0).collect();
    let spec = GgufSpec {
        rope_factors: Some(factors),
        ..GgufSpec::default()
    };
    assert_same(&spec);
    let (dir, plain) = (folder(), folder());
    let (file, plain) = (dir.path().join("a.gguf"), plain.path().join("a.gguf"));
    Pair::new(&spec).gguf.write(&file);
    let no_factors = GgufSpec {
        rope_factors: None,
        ..spec
    };
    Pair::new(&no_factors).gguf.write(&plain);
    assert_ne!(nlls(&file), nlls(&plain));
}

/// The tensors in three files, of which the first has the metadata.
#[test]
fn shards_are_one_model_whichever_is_named() {
    let dir = folder();
    let whole = Pair::new(&GgufSpec::default()).gguf;
    let path = |number: usize| dir.path().join(format!("m-{number:05}-of-00003.gguf"));
    let per_shard = whole.tensors.len().div_ceil(3);
    for (index, tensors) in whole.tensors.chunks(per_shard).enumerate() {
        let mut shard = Gguf {
            pairs: if index == 0 {
                whole.pairs.clone()
            } else {
                Vec::new()
            },
            tensors: tensors.to_vec(),
        };
        shard.set("split.no", Meta::U32(index as u32));
        shard.set("split.count", Meta::U32(3));
        shard.write(&path(index + 1));
    }
    let single = folder();
    let file = single.path().join("model.gguf");
    whole.write(&file);
    let expected = nlls(&file);
    for found in [path(1), path(3), dir.path().to_owned()] {
        assert_eq!(nlls(&found), expected, "{}", found.display());
    }
    fs::remove_file(path(2)).unwrap();
    let error = source::open(&path(3)).unwrap_err().to_string();
    assert!(
        error.contains("expected the file `m-00002-of-00003.gguf`"),
        "{error}"
    );
}
