//! Checkpoints in f16 and bf16, whose matrices stay so on the CPU.

use quest_burn::policy::DensePolicy;

use super::*;
use crate::{activation_sparsity::ExpertsError, generation::prefill, model::LanguageModel};

fn write(config: &ModelConfig, dtype: impl Fn(&str) -> DType) -> TempDir {
    let mut stored = tensors(config);
    for (name, tensor) in &mut stored {
        tensor.dtype = dtype(name);
    }
    let dir = tempfile::tempdir().unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), &stored);
    dir
}

fn load_in(dir: &TempDir, config: &ModelConfig, dtype: DType, format: WeightFormat) -> InferenceLm {
    let device = Device::flex();
    load_for_inference(dir.path(), config, &device, dtype, format, &mut |_| ()).unwrap()
}

/// Bytes of the projections, the embedding, and the projection to logits where it is another one.
fn matrix_bytes(model: &InferenceLm, is_tied: bool) -> u64 {
    let (embedding, lm_head) = model.parts();
    let embedding = embedding.weight.val();
    let mut bytes = (embedding.shape().num_elements() * embedding.dtype().size()) as u64;
    if !is_tied {
        bytes += lm_head.weight().bytes();
    }
    let counted = model.clone().map_projections(|_, _, linear| {
        bytes += linear.weight().bytes();
        Ok::<_, ExpertsError>(linear)
    });
    counted.unwrap();
    bytes
}

/// Of a prompt of so many tokens.
fn logits(model: &InferenceLm, config: &ModelConfig, tokens: u32) -> Vec<f32> {
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 7 + 3) % 20).collect();
    let cache = config.cache(8, 1, ids.len());
    let mut cache = cache.init(&model.device(), model.dtype()).unwrap();
    let hidden = prefill(model, &mut cache, &DensePolicy, &[&ids], ids.len(), None).unwrap();
    let logits = model.logits(hidden);
    logits.into_data_as::<f32>().try_to_vec().unwrap()
}

#[test]
fn halves_take_two_bytes_a_weight_and_give_what_they_give_in_f32() {
    for tied in [false, true] {
        let config = config(json!({ "num_hidden_layers": 2, "tie_word_embeddings": tied }));
        let shapes = parameters::shapes(&config);
        let matrices = shapes
            .map(|(_, shape)| shape)
            .filter(|shape| shape.len() == 2);
        let weights = matrices
            .map(|shape| (shape[0] * shape[1]) as u64)
            .sum::<u64>();
        for half in [DType::F16, DType::BF16] {
            let dir = write(&config, |_| half);
            let of = |dtype, format| load_in(&dir, &config, dtype, format);
            let stored = of(DType::F32, WeightFormat::Stored);
            let full = of(DType::F32, WeightFormat::Full);
            assert_eq!(matrix_bytes(&stored, tied), 2 * weights, "{half:?}");
            assert_eq!(matrix_bytes(&full, tied), 4 * weights, "{half:?}");
            assert_eq!((stored.dtype(), full.dtype()), (DType::F32, DType::F32));
            // Rows of a decoded token are multiplied in the same order; a prompt's by blocks.
            assert_eq!(logits(&stored, &config, 3), logits(&full, &config, 3));
            let (found, expected) = (logits(&stored, &config, 30), logits(&full, &config, 30));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0));
            }
            // The dtype is of what is computed in: halves of the other kind stay too.
            let other = of(DType::F16, WeightFormat::Stored);
            assert_eq!(matrix_bytes(&other, tied), 2 * weights);
            assert_eq!(other.dtype(), DType::F16);
            assert!(logits(&other, &config, 3).iter().all(|x| x.is_finite()));

            let source = source::open(dir.path()).unwrap();
            let kept = KeptWeights::of(&*source, &config, &Device::flex())
                .unwrap()
                .unwrap();
            let expected = KeptWeights {
                form: KeptForm::Half(half),
                weights,
                bytes: 2 * weights,
                embedding: Some(half),
                has_tied_head: false,
            };
            assert_eq!(kept, expected);
        }
    }
}

#[test]
fn matrices_of_several_element_types_keep_theirs() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = write(&config, |name| match name {
        _ if name.contains("q_proj") || name.contains("up_proj") => DType::F16,
        _ if name.contains("k_proj") || name.contains("embed") => DType::BF16,
        _ => DType::F32,
    });
    let stored = load_in(&dir, &config, DType::F32, WeightFormat::Stored);
    let full = load_in(&dir, &config, DType::F32, WeightFormat::Full);
    assert_eq!(logits(&stored, &config, 3), logits(&full, &config, 3));
    assert!(matrix_bytes(&stored, false) < matrix_bytes(&full, false));
}

#[test]
fn a_checkpoint_in_f32_stays_in_f32() {
    let config = config(json!({ "num_hidden_layers": 1 }));
    let dir = write(&config, |_| DType::F32);
    let stored = load_in(&dir, &config, DType::F32, WeightFormat::Stored);
    let full = load_in(&dir, &config, DType::F32, WeightFormat::Full);
    assert_eq!(matrix_bytes(&stored, false), matrix_bytes(&full, false));
    let source = source::open(dir.path()).unwrap();
    let kept = KeptWeights::of(&*source, &config, &Device::flex()).unwrap();
    assert_eq!(kept, None);
}
