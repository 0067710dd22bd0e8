//! The inference form of a model gives what the trainable form gives.

use burn::{
    module::Module,
    nn::RmsNormConfig,
    tensor::{DType, Device, Distribution, Int, Tensor, TensorData, Tolerance},
};
use quest_burn::{
    QuestConfig,
    attention::{QuestAttentionConfig, RopeConfig, rms_norm},
    cache::{PagedKvCache, PagedKvCacheConfig},
    inference::InferenceAttention,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::{
    config::{Architecture, Blocks, ModelConfig},
    inference::InferenceLm,
    model::LanguageModel,
};
use quest_burn_tests::{devices::devices, layer::Randomize};
use rand::{SeedableRng, rngs::StdRng};

const VOCAB_SIZE: usize = 61;

fn config(qkv_bias: bool, qk_norm: bool, tied: bool) -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Llama,
        vocab_size: VOCAB_SIZE,
        d_model: 48,
        d_ff: 40,
        n_layers: 2,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 16,
        max_positions: 4096,
        rms_norm_epsilon: 1e-5,
        rope: RopeConfig::new(),
        blocks: Blocks {
            qkv_bias,
            output_bias: qkv_bias,
            mlp_bias: qkv_bias,
            qk_norm,
            ..Blocks::default()
        },
        tie_word_embeddings: tied,
        quantization: None,
        dtype: None,
        bos_token_id: None,
        stop_token_ids: Vec::new(),
    }
}

/// Logits of a ragged batch of prompts, prefilled in two chunks, and of six decoded tokens each.
fn logits(
    model: &dyn LanguageModel,
    cache: &mut PagedKvCache,
    policy: &dyn PagePolicy,
    device: &Device,
) -> Vec<Tensor<2>> {
    let ids = |batch: usize, tokens: usize, seed: usize| {
        let ids = (0..batch * tokens).map(|i| ((i * 17 + seed * 5) % VOCAB_SIZE) as i32);
        let ids = TensorData::new(ids.collect::<Vec<_>>(), [batch, tokens]);
        Tensor::<2, Int>::from_data(ids, device)
    };
    let mut rows = Vec::new();
    let chunks = [[30usize, 7], [13, 20]];
    for (seed, new_tokens) in chunks.into_iter().enumerate() {
        let step = cache.prefill(&new_tokens).unwrap();
        let hidden = model.hidden(ids(2, step.max_new_tokens(), seed), cache, &step, policy);
        let logits = model.logits(hidden);
        for (sequence, n) in new_tokens.into_iter().enumerate() {
            let logits = logits.clone().slice([sequence..sequence + 1, 0..n]);
            rows.push(logits.squeeze_dim(0));
        }
    }
    for seed in 2..8 {
        let step = cache.decode().unwrap();
        let hidden = model.hidden(ids(2, 1, seed), cache, &step, policy);
        rows.push(model.logits(hidden).squeeze_dim(1));
    }
    rows
}

#[test]
fn logits_are_those_of_the_trainable_form() {
    for test_device in devices() {
        let device = &test_device.device;
        for (bias, norm, tied) in [
            (false, false, false),
            (true, false, true),
            (false, true, true),
        ] {
            let config = config(bias, norm, tied);
            let mut rng = StdRng::seed_from_u64(5);
            let model = config.init(device).map(&mut Randomize(&mut rng));
            let quest = QuestConfig::kv_group()
                .with_token_budget(16)
                .with_dense_layers(1)
                .init()
                .unwrap();
            let cache = || config.cache(8, 2, 64).init(device, DType::F32).unwrap();
            let expected = logits(&model, &mut cache(), &quest, device);
            let found = logits(&InferenceLm::from(model), &mut cache(), &quest, device);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.into_iter().zip(expected) {
                found
                    .into_data()
                    .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-3, 1e-3));
            }
        }
    }
}

#[test]
fn an_attention_layer_without_rope_gives_the_same_outputs() {
    for test_device in devices() {
        let device = &test_device.device;
        let layer = QuestAttentionConfig::new(32, 4)
            .with_n_kv_heads(Some(2))
            .init(device);
        let merged = InferenceAttention::from(layer.clone());
        let norm = RmsNormConfig::new(32).init(device);
        let cache = || {
            PagedKvCacheConfig::for_tokens(1, 2, 8, 8, 2, 40)
                .init(device, DType::F32)
                .unwrap()
        };
        let (mut plain, mut cache) = (cache(), cache());
        let random =
            |tokens| Tensor::<3>::random([2, tokens, 32], Distribution::Normal(0.0, 1.0), device);
        for tokens in [19, 5, 1] {
            let hidden = random(tokens);
            let step = match tokens {
                1 => plain.decode(),
                _ => plain.prefill(&[tokens; 2]),
            };
            let step = step.unwrap();
            let normed = rms_norm(&norm, hidden.clone());
            let expected = hidden.clone()
                + layer.forward_cache(normed, plain.layer_mut(0), &step, &DensePolicy);
            let step = match tokens {
                1 => cache.decode(),
                _ => cache.prefill(&[tokens; 2]),
            };
            let step = step.unwrap();
            let rotations = merged.rotations(&step);
            assert!(rotations.is_none());
            let layer_cache = cache.layer_mut(0);
            let found = merged.forward_cache(hidden, &norm, layer_cache, &step, None, &DensePolicy);
            found
                .into_data()
                .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::rel_abs(1e-4, 1e-4));
        }
    }
}
