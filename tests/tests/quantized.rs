//! Layers and models with weights in 8 and 4 bits, on every device: with kernels where there are
//! any, in tensor operations elsewhere.

use burn::{
    module::Param,
    nn::{RmsNorm, RmsNormConfig},
    tensor::{DType, Device, Distribution, Int, Tensor, TensorData, Tolerance, f16},
};
use quest_burn::policy::DensePolicy;
use quest_burn_linear::{
    InferenceLinear, LinearWeight, QuantizationConfig, QuantizedWeight, WeightFormat,
    blocks::BlockFormat,
};
use quest_burn_models::{
    config::ModelConfig, inference::InferenceLm, model::LanguageModel, weights,
};
use quest_burn_tests::{
    checkpoint::{self, CheckpointSpec},
    devices::{TestDevice, devices},
};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn norm(d: usize, device: &Device) -> RmsNorm {
    let mut norm = RmsNormConfig::new(d).init(device);
    norm.gamma = Param::from_tensor(random([d], device));
    norm
}

#[track_caller]
fn assert_close<const D: usize>(found: Tensor<D>, expected: Tensor<D>, device: &TestDevice) {
    let tolerance = device.tolerance_of_sums(1e-3) as f32;
    let tolerance = Tolerance::rel_abs(tolerance, tolerance);
    (found.into_data()).assert_approx_eq::<f32>(&expected.into_data(), tolerance);
}

/// Products with a few rows in native code round the rows to 8 bits, which their own tests compare to the
/// last bits; here it shows as a part of the outputs' size.
#[track_caller]
fn assert_close_in_bytes(found: Tensor<2>, expected: Tensor<2>) {
    let size = |x: Tensor<2>| x.powi_scalar(2).mean().sqrt().into_scalar::<f32>();
    let error = size(found - expected.clone()) / size(expected);
    assert!(error <= 0.05, "{error}");
}

#[test]
fn a_quantised_layer_is_the_layer_with_rounded_weights() {
    for test_device in devices() {
        let device = &test_device.device;
        // Fewer and more rows than the kernel takes.
        for rows in [1, 5, 19, 40] {
            for d_input in [256, 48] {
                for (bits, asymmetric) in [(4, false), (4, true), (8, false), (8, true)] {
                    let config = QuantizationConfig::new(bits).with_asymmetric(asymmetric);
                    let weight = random([34, d_input], device);
                    let bias = random([34], device);
                    let rounded = QuantizedWeight::new(weight.clone(), config).unwrap();
                    let expected = InferenceLinear::new(rounded.reference(), Some(bias.clone()));
                    let found = InferenceLinear::new(weight, Some(bias));
                    let found = found.quantize(config).unwrap();
                    assert_eq!(found.d_output(), 34);
                    let (x, norm) = (random([rows, d_input], device), norm(d_input, device));
                    let residual = random([rows, 34], device);
                    let both = [found, expected];
                    for outputs in [
                        both.each_ref().map(|layer| layer.forward(x.clone())),
                        both.each_ref()
                            .map(|layer| layer.forward_normed(x.clone(), &norm)),
                        both.each_ref()
                            .map(|layer| layer.forward_added(x.clone(), residual.clone())),
                        both.each_ref()
                            .map(|layer| layer.forward_normed_gated(x.clone(), &norm)),
                    ] {
                        let [found, expected] = outputs;
                        // Groups of 16 are not read by native code.
                        if test_device.name == "flex" && rows < 9 && d_input == 256 {
                            assert_close_in_bytes(found, expected);
                        } else {
                            assert_close(found, expected, &test_device);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_layer_of_blocks_is_the_layer_with_their_weights() {
    const D_INPUT: usize = 256;
    for test_device in devices() {
        let device = &test_device.device;
        let stacked = [
            (BlockFormat::Q4_1, 20, &[0, 2][..]),
            (BlockFormat::Q8_0, 6, &[0][..]),
            (BlockFormat::Q6_K, 8, &[208][..]),
            (BlockFormat::F16, 4, &[0][..]),
        ]
        .map(|(format, n, scales)| {
            let mut bytes: Vec<u8> = (0..format.row_bytes(n * D_INPUT).unwrap())
                .map(|i| (i * 131 % 251) as u8)
                .collect();
            for block in bytes.chunks_exact_mut(format.bytes_per_block()) {
                for &at in scales {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
                }
            }
            LinearWeight::from_blocks(format, [n, D_INPUT], bytes, DType::F32, device).unwrap()
        });
        let weight = LinearWeight::stack(stacked.to_vec());
        assert_eq!(weight.dims(), [38, D_INPUT]);
        let expected = InferenceLinear::new(weight.dequantize(), None);
        let found = InferenceLinear::with_weight(weight, None);
        for rows in [1, 5, 19, 40] {
            let (x, norm) = (random([rows, D_INPUT], device), norm(D_INPUT, device));
            let both = [&found, &expected];
            for [found, expected] in [
                both.map(|layer| layer.forward(x.clone())),
                both.map(|layer| layer.forward_normed_gated(x.clone(), &norm)),
            ] {
                if test_device.name == "flex" && rows < 9 {
                    assert_close_in_bytes(found, expected);
                } else {
                    assert_close(found, expected, &test_device);
                }
            }
        }
    }
}

/// Logits of a prompt of two sequences, and of three decoded tokens.
fn logits(model: &InferenceLm, config: &ModelConfig, device: &Device) -> Tensor<3> {
    let mut cache = config.cache(8, 2, 32).init(device, DType::F32).unwrap();
    let mut all = Vec::new();
    for (seed, tokens) in [13, 1, 1, 1].into_iter().enumerate() {
        let step = match tokens {
            1 => cache.decode().unwrap(),
            n => cache.prefill(&[n; 2]).unwrap(),
        };
        let ids = (0..2 * tokens).map(|i| ((i * i + 7 * seed) % config.vocab_size) as i32);
        let ids = TensorData::new(ids.collect::<Vec<_>>(), [2, tokens]);
        let ids = Tensor::<2, Int>::from_data(ids, device);
        all.push(model.logits(model.hidden(ids, &mut cache, &step, &DensePolicy)));
    }
    Tensor::cat(all, 1)
}

#[test]
fn weights_take_their_form_as_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &CheckpointSpec::default());
    let config = ModelConfig::from_dir(dir.path()).unwrap();
    for test_device in devices() {
        let device = &test_device.device;
        let load = || weights::load(dir.path(), &config, device, DType::F32, &mut |_| ()).unwrap();
        let full = logits(&InferenceLm::from(load()), &config, device);
        for (format, most) in [
            (WeightFormat::Full, 0.0),
            (WeightFormat::Int8, 0.05),
            (WeightFormat::Int4, 0.5),
        ] {
            let model = InferenceLm::with_weights(load(), format).unwrap();
            let expected = logits(&model, &config, device);
            let (dir, progress) = (dir.path(), &mut |_| ());
            let model =
                weights::load_for_inference(dir, &config, device, DType::F32, format, progress);
            let found = logits(&model.unwrap(), &config, device);
            assert_close(found.clone(), expected, &test_device);
            let size = |logits: Tensor<3>| (logits.powi_scalar(2)).mean().sqrt();
            let error = size(found - full.clone()) / size(full.clone());
            let error = error.into_scalar::<f32>();
            println!("{test_device}, {format}: logits are off by {error:.4} of their size");
            assert!(error <= most, "{test_device}, {format}: {error}");
            assert!(error > 0.0 || format == WeightFormat::Full, "{format}");
        }
    }
}

#[test]
fn layers_without_whole_groups_are_refused_before_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let spec = CheckpointSpec {
        d_ff: 40,
        ..CheckpointSpec::default()
    };
    checkpoint::write(dir.path(), &spec);
    let config = ModelConfig::from_dir(dir.path()).unwrap();
    let device = &devices()[0].device;
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        let mut reported = 0;
        let mut progress = |_| reported += 1;
        let loaded = weights::load_for_inference(
            dir.path(),
            &config,
            device,
            DType::F32,
            format,
            &mut progress,
        );
        let error = loaded.unwrap_err().to_string();
        assert_eq!(
            error,
            "quantised weights: expected a multiple of 16 input channels, found a layer of 40"
        );
        assert_eq!(reported, 0);
    }
}
