mod bad_files;
mod halves;
mod stored;

use std::fs;

use burn::{
    module::Param,
    tensor::{Int, Tensor, TensorData, Tolerance},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::parameters;
use stored::{Stored, Tensors, write_pytorch, write_safetensors};

type Write = fn(&Path, &Tensors);

/// The name of a single file in each format, and who writes it.
const FORMATS: [(&str, Write); 2] = [
    ("model.safetensors", write_safetensors),
    ("pytorch_model.bin", write_pytorch),
];

/// Square projections (whose transposition no shape betrays), biases and query/key norms.
fn config(changes: Value) -> ModelConfig {
    let dir = tempfile::tempdir().unwrap();
    let mut config = json!({
        "architectures": ["Qwen3ForCausalLM"], "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 11, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
        "vocab_size": 20, "max_position_embeddings": 64, "attention_bias": true
    });
    let fields = config.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    fs::write(dir.path().join(ModelConfig::FILE), config.to_string()).unwrap();
    ModelConfig::from_dir(dir.path()).unwrap()
}

fn tensors(config: &ModelConfig) -> Tensors {
    let shapes = parameters::shapes(config).enumerate();
    shapes
        .map(|(seed, (name, shape))| (name, Stored::new(&shape, seed)))
        .collect()
}

fn load_f32(dir: &TempDir, config: &ModelConfig) -> Result<CausalLm, ModelError> {
    load(
        dir.path(),
        config,
        &Device::default(),
        DType::F32,
        &mut |_| {},
    )
}

fn message(error: ModelError, dir: &TempDir) -> String {
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message.replace(&format!("{}/", dir.path().display()), "")
}

/// The folder's error, which must name the file.
fn error(dir: &TempDir, config: &ModelConfig) -> String {
    message(load_f32(dir, config).map(drop).unwrap_err(), dir)
}

fn assert_equal(found: TensorData, expected: &Stored) {
    assert_eq!(found.shape().to_vec(), expected.shape);
    found.assert_approx_eq::<f32>(&expected.data(), Tolerance::absolute(0.0));
}

fn vector(parameter: &Param<Tensor<1>>) -> TensorData {
    parameter.val().into_data_dtype(DType::F32)
}

/// In the checkpoint's layout, `[d_output, d_input]`.
fn matrix(parameter: &Param<Tensor<2>>) -> TensorData {
    parameter.val().transpose().into_data_dtype(DType::F32)
}

fn assert_holds(model: &CausalLm, tensors: &Tensors) {
    let of = |name: &str| &tensors[name];
    let embedding = model.embed_tokens.weight.val().into_data_dtype(DType::F32);
    assert_equal(embedding, of("model.embed_tokens.weight"));
    assert_equal(vector(&model.norm.gamma), of("model.norm.weight"));
    if let Some(lm_head) = &model.lm_head {
        assert_equal(matrix(&lm_head.weight), of("lm_head.weight"));
    }
    for (index, layer) in model.layers.iter().enumerate() {
        let of = |name: &str| &tensors[&format!("model.layers.{index}.{name}")];
        let (attention, mlp) = (&layer.self_attn, layer.mlp.gated().unwrap());
        for (name, linear) in [
            ("self_attn.q_proj", &attention.q_proj),
            ("self_attn.k_proj", &attention.k_proj),
            ("self_attn.v_proj", &attention.v_proj),
            ("self_attn.o_proj", &attention.o_proj),
            ("mlp.gate_proj", &mlp.gate_proj),
            ("mlp.up_proj", &mlp.up_proj),
            ("mlp.down_proj", &mlp.down_proj),
        ] {
            assert_equal(matrix(&linear.weight), of(&format!("{name}.weight")));
            if let Some(bias) = &linear.bias {
                assert_equal(vector(bias), of(&format!("{name}.bias")));
            }
        }
        for (name, norm) in [
            ("input_layernorm", Some(&layer.input_layernorm)),
            (
                "post_attention_layernorm",
                Some(&layer.post_attention_layernorm),
            ),
            ("self_attn.q_norm", attention.q_norm.as_ref()),
            ("self_attn.k_norm", attention.k_norm.as_ref()),
        ] {
            if let Some(norm) = norm {
                assert_equal(vector(&norm.gamma), of(&format!("{name}.weight")));
            }
        }
    }
}

fn write_shards(
    dir: &TempDir,
    single: &str,
    tensors: &Tensors,
    write: fn(&Path, &Tensors),
) -> Vec<String> {
    let (stem, extension) = single.rsplit_once('.').unwrap();
    let mut map = serde_json::Map::new();
    let mut shards = [Tensors::new(), Tensors::new(), Tensors::new()];
    let mut names = Vec::new();
    // Neighbours in different files, so that every part of the model comes from several.
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        shards[i % 3].insert(name.clone(), tensor.clone());
    }
    for (i, shard) in shards.iter().enumerate() {
        let file = format!("{stem}-0000{}-of-00003.{extension}", i + 1);
        map.extend(shard.keys().map(|name| (name.clone(), json!(file))));
        write(&dir.path().join(&file), shard);
        names.push(file);
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(
        dir.path().join(format!("{single}.index.json")),
        index.to_string(),
    )
    .unwrap();
    names
}

#[test]
fn every_kind_of_checkpoint_gives_the_same_weights() {
    let config = config(json!({}));
    let expected = tensors(&config);
    for is_sharded in [false, true] {
        for (single, write) in FORMATS {
            let dir = tempfile::tempdir().unwrap();
            if is_sharded {
                write_shards(&dir, single, &expected, write);
            } else {
                write(&dir.path().join(single), &expected);
            }
            assert_holds(&load_f32(&dir, &config).unwrap(), &expected);
        }
    }
}

#[test]
fn weights_are_cast_to_the_dtype_asked_for() {
    let device = Device::default();
    let config = config(json!({ "num_hidden_layers": 1 }));
    for source in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let mut stored = tensors(&config);
        stored.values_mut().for_each(|tensor| tensor.dtype = source);
        let dir = tempfile::tempdir().unwrap();
        write_safetensors(&dir.path().join("model.safetensors"), &stored);
        let pickled = tempfile::tempdir().unwrap();
        write_pytorch(&pickled.path().join("pytorch_model.bin"), &stored);
        for target in [DType::F32, DType::F16, DType::BF16] {
            if !device.supports_dtype(target) {
                continue;
            }
            for dir in [&dir, &pickled] {
                let model = load(dir.path(), &config, &device, target, &mut |_| {}).unwrap();
                assert_eq!(
                    model.layers[0].self_attn.q_proj.weight.val().dtype(),
                    target
                );
                assert_eq!(model.norm.gamma.val().dtype(), target);
                assert_holds(&model, &stored);
            }
        }
    }
}

#[test]
fn a_loaded_model_runs() {
    let device = Device::default();
    let config = config(json!({ "tie_word_embeddings": true }));
    let dir = tempfile::tempdir().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors(&config));
    let model = load_f32(&dir, &config).unwrap();
    let logits = model.forward(Tensor::<2, Int>::from_data([[1, 2, 3]], &device));
    assert_eq!(logits.dims(), [1, 3, 20]);
    let sum = logits.sum().into_scalar::<f32>();
    assert!(sum.is_finite(), "{sum}");
}

#[test]
fn safetensors_come_before_pytorch_files() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = tempfile::tempdir().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors(&config));
    fs::write(dir.path().join("pytorch_model.bin"), "not read").unwrap();
    load_f32(&dir, &config).unwrap();
}

#[test]
fn tensors_without_use_are_left_out() {
    let config = config(json!({ "num_hidden_layers": 1, "tie_word_embeddings": true }));
    let mut tensors = tensors(&config);
    let expected = tensors.clone();
    for (name, shape) in [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", vec![2]),
        ("model.layers.0.self_attn.k_scale", vec![]),
        ("model.layers.0.self_attn.v_scale", vec![]),
    ] {
        tensors.insert(name.into(), Stored::new(&shape, 5));
    }
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), embedding);
    let dir = tempfile::tempdir().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    let model = load_f32(&dir, &config).unwrap();
    assert!(model.lm_head.is_none(), "it repeats the embedding");
    assert_holds(&model, &expected);
}

#[test]
fn a_trained_output_projection_counts_although_the_configuration_ties_it() {
    let tied = config(json!({ "num_hidden_layers": 1, "tie_word_embeddings": true }));
    let untied = config(json!({ "num_hidden_layers": 1 }));
    let tensors = tensors(&untied);
    for (single, write) in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(single), &tensors);
        let model = load_f32(&dir, &tied).unwrap();
        assert!(model.lm_head.is_some());
        assert_holds(&model, &tensors);
    }
}

#[test]
fn the_embedding_stands_for_an_output_projection_that_is_not_there() {
    let untied = config(json!({ "num_hidden_layers": 1 }));
    let mut tensors = tensors(&untied);
    tensors.remove("lm_head.weight");
    let dir = tempfile::tempdir().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    let model = load_f32(&dir, &untied).unwrap();
    assert!(model.lm_head.is_none());
    assert_holds(&model, &tensors);
}

#[test]
fn names_may_lack_the_decoder_or_have_a_wrapper_before_them() {
    let config = config(json!({ "num_hidden_layers": 2, "tie_word_embeddings": true }));
    let expected = tensors(&config);
    let rename = |of: &dyn Fn(&str) -> String| {
        let named = expected.iter();
        let named = named.map(|(name, tensor)| (of(name), tensor.clone()));
        named.collect::<Tensors>()
    };
    for renamed in [
        rename(&|name| name.strip_prefix("model.").unwrap_or(name).into()),
        rename(&|name| format!("_orig_mod.{name}")),
        rename(&|name| format!("module.{name}")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write_safetensors(&dir.path().join("model.safetensors"), &renamed);
        assert_holds(&load_f32(&dir, &config).unwrap(), &expected);
    }
}

#[test]
fn progress_ends_at_the_totals() {
    let config = config(json!({}));
    let dir = tempfile::tempdir().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors(&config));
    let mut seen = Vec::new();
    let device = Device::default();
    load(dir.path(), &config, &device, DType::F32, &mut |progress| {
        seen.push(progress)
    })
    .unwrap();

    assert_eq!((seen[0].tensors, seen[0].bytes), (0, 0));
    assert!(
        seen.windows(2)
            .all(|w| w[0].tensors < w[1].tensors && w[0].bytes < w[1].bytes)
    );
    // Start, embedding, layers, norm, output projection.
    assert_eq!(seen.len(), 1 + 1 + 11 + 1 + 1);
    let last = seen[seen.len() - 1];
    assert_eq!(last.total_bytes, 4 * config.n_parameters());
    assert_eq!(
        (last.tensors, last.bytes),
        (last.total_tensors, last.total_bytes)
    );
}

#[test]
fn dtypes_that_weights_cannot_have_are_refused() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let device = Device::default();
    for dtype in [DType::F64, DType::I32] {
        let result = load(Path::new("unread"), &config, &device, dtype, &mut |_| {});
        assert!(matches!(result, Err(ModelError::DType(found)) if found == dtype));
    }
}
