//! The trained model as a Hugging Face folder.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use burn::{
    store::{FloatCastAdapter, KeyRemapper, ModuleSnapshot, SafetensorsStore},
    tensor::{DType, Device, Int, Tensor},
};
use quest_burn_models::{config::ModelConfig, model::CausalLm, tokenizer::Tokenizer, weights};
use serde_json::json;

use crate::corpus::Vocabulary;

const WEIGHTS: &str = "model.safetensors";

/// Writes `config.json`, `model.safetensors` in f16 and `tokenizer.json` into a folder, and checks
/// that the models crate reads the same model back.
///
/// # Errors
///
/// When a file cannot be written or what is read back differs.
pub(crate) fn write(
    folder: &Path,
    model: &CausalLm,
    config: &ModelConfig,
    vocabulary: &Vocabulary,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(&hugging_face(config))?;
    fs::write(folder.join(ModelConfig::FILE), text + "\n")?;
    vocabulary.save(&folder.join(Tokenizer::FILE))?;
    let names = [("^", "model."), (r"\.gamma$", ".weight")];
    let mut store = SafetensorsStore::from_file(folder.join(WEIGHTS))
        .overwrite(true)
        .skip_enum_variants(true)
        .clear_metadata()
        .metadata("format", "pt")
        .remap(KeyRemapper::from_patterns(names.to_vec())?)
        .with_to_adapter(FloatCastAdapter::to(DType::F16));
    model.save_into(&mut store)?;
    check(folder, model, config, vocabulary)
        .with_context(|| format!("{}: the exported model", folder.display()))
}

fn hugging_face(config: &ModelConfig) -> serde_json::Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_epsilon,
        "rope_theta": config.rope.theta,
        "attention_bias": config.blocks.qkv_bias,
        "mlp_bias": config.blocks.mlp_bias,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.stop_token_ids.first(),
        "torch_dtype": "float16",
    })
}

fn check(
    folder: &Path,
    model: &CausalLm,
    config: &ModelConfig,
    vocabulary: &Vocabulary,
) -> anyhow::Result<()> {
    let device = model.embed_tokens.weight.device();
    let read = ModelConfig::from_dir(folder)?;
    let expected = ModelConfig {
        dtype: Some(DType::F16),
        ..config.clone()
    };
    ensure!(read == expected, "expected {expected:?}, found {read:?}");
    let text = "The pass key is 407. What is the pass key?";
    let ids = Tokenizer::from_dir(folder)?.encode(text)?;
    let mut expected = vec![vocabulary.begin()];
    expected.extend(vocabulary.encode(text)?);
    ensure!(ids == expected, "expected ids {expected:?}, found {ids:?}");

    let loaded = weights::load(folder, &read, &device, DType::F32, &mut |_| ())?;
    let [before, after] = [model, &loaded].map(|model| likelihoods(model, &ids, &device));
    let difference = (before - after).abs().max().into_scalar::<f32>();
    ensure!(
        difference < 0.1,
        "expected the same logits up to the rounding of weights, found a difference of {difference}"
    );
    Ok(())
}

fn likelihoods(model: &CausalLm, ids: &[u32], device: &Device) -> Tensor<3> {
    let ids = ids.iter().map(|&id| id as i32).collect::<Vec<_>>();
    let ids = Tensor::<1, Int>::from_data(ids.as_slice(), device);
    model.forward(ids.unsqueeze::<2>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{tiny_model, weights as random_weights};

    #[test]
    fn an_exported_model_reads_back() {
        let vocabulary = Vocabulary::train(600, 1).unwrap();
        let config = tiny_model(vocabulary.len());
        let device = Device::default();
        let folder = tempfile::tempdir().unwrap();
        let model = random_weights(&config, 1, &device);
        write(folder.path(), &model, &config, &vocabulary).unwrap();

        let other = random_weights(&config, 2, &device);
        let error = check(folder.path(), &other, &config, &vocabulary).unwrap_err();
        assert!(error.to_string().contains("the same logits"), "{error}");
    }
}
