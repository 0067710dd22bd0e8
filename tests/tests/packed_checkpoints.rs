//! Checkpoints of GPTQ and AWQ, against the same weights in full.

use std::path::Path;

use burn::tensor::{DType, Device};
use quest_burn::{inference::WeightFormat, policy::DensePolicy};
use quest_burn_models::{
    ModelError,
    config::ModelConfig,
    generation::{LikelihoodMode, negative_log_likelihoods},
    inference::InferenceLm,
    weights,
};
use quest_burn_tests::{
    arrays::assert_close,
    checkpoint::CheckpointSpec,
    devices::devices,
    packed_checkpoint::{self, Packed, PackedSpec, Tensors},
};

const GPTQ: PackedSpec = PackedSpec {
    layout: "gptq",
    bits: 4,
    group_size: Some(32),
};

fn load(dir: &Path, format: WeightFormat, device: &Device) -> Result<InferenceLm, ModelError> {
    let config = ModelConfig::from_dir(dir)?;
    weights::load_for_inference(dir, &config, device, DType::F32, format, &mut |_| ())
}

/// Of a prompt in chunks, and of tokens that are decoded one by one.
fn nlls(dir: &Path, device: &Device) -> Vec<f64> {
    let config = ModelConfig::from_dir(dir).unwrap();
    let model = load(dir, WeightFormat::Full, device).unwrap();
    let ids = (0..40).map(|i| (i * i + 3) % 160).collect::<Vec<u32>>();
    let modes = [
        LikelihoodMode::Dense { chunk: 16 },
        LikelihoodMode::Decode {
            prefill: 30,
            chunk: 512,
        },
    ];
    let nlls = modes.map(|mode| {
        let mut cache = config.cache(8, 1, 40).init(device, DType::F32).unwrap();
        negative_log_likelihoods(&model, &mut cache, &DensePolicy, &ids, mode, &mut |_| ()).unwrap()
    });
    nlls.concat().into_iter().map(f64::from).collect()
}

/// Native code rounds the rows of layers with few rows and packed weights to 8 bits, which shows in a model
/// as small as this one. The first 32 tokens come in chunks of 16, which are not rounded anywhere.
#[track_caller]
fn assert_same(found: &[f64], expected: &[f64], what: &str) {
    const EXACT: usize = 31;
    assert_close(&found[..EXACT], &expected[..EXACT], 1e-3, what);
    assert_close(found, expected, 0.1, what);
}

#[test]
fn packed_weights_compute_what_the_same_weights_in_full_do() {
    let plain = CheckpointSpec::default();
    let biased = CheckpointSpec {
        architecture: "Qwen2ForCausalLM",
        tied: true,
        ..CheckpointSpec::default()
    };
    for (spec, layout, bits, group_size) in [
        (&plain, "gptq", 4, Some(32)),
        // The last group of 96 inputs is shorter.
        (&plain, "gptq", 4, Some(64)),
        (&plain, "gptq", 8, None),
        (&biased, "gptq_v2", 4, Some(128)),
        (&biased, "gptq_v2", 8, Some(16)),
        (&plain, "awq", 4, Some(32)),
        (&biased, "awq", 4, Some(64)),
    ] {
        let quantization = PackedSpec {
            layout,
            bits,
            group_size,
        };
        let [packed, full] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        packed_checkpoint::write(spec, quantization, packed.path(), full.path(), |_| ());
        for test_device in devices() {
            let found = nlls(packed.path(), &test_device.device);
            let expected = nlls(full.path(), &test_device.device);
            let what = format!("{quantization:?} on {test_device}");
            assert_same(&found, &expected, &what);
            assert!(
                expected.iter().any(|&nll| nll > 0.1),
                "{what}: {expected:?}"
            );
        }
        let bytes = |dir: &Path| {
            let config = ModelConfig::from_dir(dir).unwrap();
            config.weight_bytes(DType::F16, WeightFormat::Full).unwrap()
        };
        assert!(
            bytes(packed.path()) < bytes(full.path()),
            "{quantization:?}"
        );
    }
}

/// What a checkpoint is refused for.
fn refusal(quantization: PackedSpec, change: impl FnOnce(&mut Tensors)) -> String {
    let [packed, full] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let spec = CheckpointSpec::default();
    packed_checkpoint::write(&spec, quantization, packed.path(), full.path(), change);
    let device = &devices()[0].device;
    let error = load(packed.path(), WeightFormat::Full, device).unwrap_err();
    error.to_string()
}

#[test]
fn inputs_in_another_order_are_refused() {
    let name = "model.layers.1.self_attn.k_proj.g_idx";
    let error = refusal(GPTQ, |tensors| {
        let mut groups = (0..64).map(|input| input / 32).collect::<Vec<u32>>();
        groups.swap(3, 40);
        tensors.insert(name.into(), Packed::ints([64, 0], &groups));
    });
    assert!(
        error.ends_with(
            "model.safetensors: unsupported order of inputs (desc_act) in \
             `model.layers.1.self_attn.k_proj.g_idx`: expected input 3 in group 0, found 1"
        ),
        "{error}"
    );
}

#[test]
fn a_file_without_an_order_of_inputs_has_theirs() {
    let [packed, full] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let spec = CheckpointSpec::default();
    let without = |tensors: &mut Tensors| tensors.retain(|name, _| !name.ends_with("g_idx"));
    packed_checkpoint::write(&spec, GPTQ, packed.path(), full.path(), without);
    let device = &devices()[0].device;
    let (found, expected) = (nlls(packed.path(), device), nlls(full.path(), device));
    assert_same(&found, &expected, "without g_idx");
}

#[test]
fn biases_that_the_model_lacks_must_be_zero() {
    let name = "model.layers.2.mlp.up_proj.bias";
    let [packed, full] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let spec = CheckpointSpec::default();
    packed_checkpoint::write(&spec, GPTQ, packed.path(), full.path(), |tensors| {
        tensors.insert(name.into(), Packed::floats(&[96], &[0.0; 96]));
    });
    let device = &devices()[0].device;
    let (found, expected) = (nlls(packed.path(), device), nlls(full.path(), device));
    assert_same(&found, &expected, "with a bias of zeros");
    let error = refusal(GPTQ, |tensors| {
        let mut bias = [0.0; 96];
        bias[95] = 0.5;
        tensors.insert(name.into(), Packed::floats(&[96], &bias));
    });
    assert!(
        error.contains("expected no bias, or zeros, in `mlp.up_proj.bias`"),
        "{error}"
    );
}

#[test]
fn tensors_that_are_not_those_of_the_layout_are_named() {
    let error = refusal(GPTQ, |tensors| {
        tensors.remove("model.layers.0.mlp.up_proj.qzeros");
        let floats = Packed::floats(&[8, 64], &[0.0; 512]);
        tensors.insert("model.layers.0.self_attn.q_proj.qweight".into(), floats);
        let short = Packed::ints([7, 64], &[0; 448]);
        tensors.insert("model.layers.1.self_attn.q_proj.qweight".into(), short);
    });
    for expected in [
        "1 missing: model.layers.0.mlp.up_proj.qzeros [2, 12]",
        "1 not 32-bit integers: model.layers.0.self_attn.q_proj.qweight (F32)",
        "model.layers.1.self_attn.q_proj.qweight (expected [8, 64], found [7, 64])",
    ] {
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn quantised_weights_are_not_rounded_again_nor_trained() {
    let [packed, full] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let spec = CheckpointSpec::default();
    packed_checkpoint::write(&spec, GPTQ, packed.path(), full.path(), |_| ());
    let device = &devices()[0].device;
    let error = load(packed.path(), WeightFormat::Int8, device).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("expected weights in full to round them, found weights in 4 bits"),
        "{error}"
    );
    let config = ModelConfig::from_dir(packed.path()).unwrap();
    let error = weights::load(packed.path(), &config, device, DType::F32, &mut |_| ());
    let error = error.map(drop).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "expected weights in full to train or convert them, found weights in 4 bits"
        ),
        "{error}"
    );
}
