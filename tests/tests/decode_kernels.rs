//! The kernels of the rest of a decode step against plain computations on the host, in every dtype
//! of the device.
//!
//! Runs on the devices that `QUEST_TEST_DEVICES` names.
#![cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal"
))]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use quest_burn::{
    attention::{HeadNorms, RopeConfig},
    cache::{PagedKvCache, PagedKvCacheConfig, Step},
    inference::{InferenceLinear, QuantizationConfig, QuantizedWeight},
    kernels::{self, DecodeState},
    ops,
};
use quest_burn_tests::{
    arrays::assert_close,
    catalogue::{AttentionShape, attention_shapes},
    devices::devices,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// CubeCL devices among those that are asked for, and their dtypes.
fn targets() -> Vec<(Device, DType)> {
    let devices = devices().into_iter().map(|test_device| test_device.device);
    let devices = devices.filter(kernels::supported);
    let targets = devices.flat_map(|device| {
        [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .filter(|&dtype| kernels::supports(&device, dtype, 8))
            .map(|dtype| (device.clone(), dtype))
            .collect::<Vec<_>>()
    });
    let targets = targets.collect::<Vec<_>>();
    if targets.is_empty() {
        println!("no device with kernels is named: nothing is tested");
    }
    targets
}

/// How far a result of this dtype may be off, relative to its size.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-5,
        DType::F16 => 4e-3,
        _ => 3e-2,
    }
}

fn tensor<const D: usize>(
    values: &[f32],
    shape: [usize; D],
    dtype: DType,
    device: &Device,
) -> Tensor<D> {
    Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), device).cast(dtype)
}

/// Random values that the dtype holds exactly, as a tensor and on the host.
fn random<const D: usize>(
    shape: [usize; D],
    dtype: DType,
    device: &Device,
    rng: &mut StdRng,
) -> (Tensor<D>, Vec<f64>) {
    let values = (0..shape.iter().product()).map(|_| rng.random_range(-2.0f32..2.0));
    let tensor = tensor(&values.collect::<Vec<_>>(), shape, dtype, device);
    let values = floats(&tensor);
    (tensor, values)
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    let data = tensor.clone().into_data().convert::<f32>();
    let values = data.try_to_vec::<f32>().unwrap();
    values.into_iter().map(f64::from).collect()
}

fn ints(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len()]),
        (device, DType::I32),
    )
}

fn read<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
    tensor.into_data().convert::<i32>().try_to_vec().unwrap()
}

/// Two layers of a cache, one filled by the reference, one by the kernel.
fn caches(shape: &AttentionShape, dtype: DType, device: &Device) -> [PagedKvCache; 2] {
    let pages = shape.lengths.iter().map(|n| n.div_ceil(shape.page_size));
    let config = PagedKvCacheConfig::new(1, shape.n_kv_heads, shape.head_dim, pages.sum())
        .with_page_size(shape.page_size)
        .with_batch(shape.lengths.len());
    [(); 2].map(|()| config.init(device, dtype).unwrap())
}

/// Steps that bring every sequence to its length: chunks that end inside pages, then one token.
fn steps(shape: &AttentionShape) -> Vec<Vec<usize>> {
    let chunk = shape.page_size + 3;
    let mut held = vec![0; shape.lengths.len()];
    let mut steps = Vec::new();
    loop {
        let left = held.iter().zip(&shape.lengths).map(|(held, n)| n - held);
        let new = left
            .map(|left| {
                if left > chunk {
                    chunk
                } else {
                    left.saturating_sub(1).max(left.min(1))
                }
            })
            .collect::<Vec<_>>();
        if new.iter().all(|&n| n == 0) {
            return steps;
        }
        held.iter_mut()
            .zip(&new)
            .for_each(|(held, new)| *held += new);
        steps.push(new);
    }
}

fn begin(cache: &mut PagedKvCache, new_tokens: &[usize]) -> Step {
    cache.prefill(new_tokens).unwrap()
}

#[test]
fn queries_and_keys_are_rotated_where_they_are_appended() {
    let mut rng = StdRng::seed_from_u64(1);
    for (device, dtype) in targets() {
        for shape in attention_shapes() {
            let (d, batch) = (shape.head_dim, shape.lengths.len());
            let heads = shape.n_heads + 2 * shape.n_kv_heads;
            let rope = RopeConfig::new().init(d, &device);
            let norms = [false, true].map(|normed| {
                normed.then(|| {
                    let mut norm = || {
                        let mut norm = burn::nn::RmsNormConfig::new(d)
                            .with_epsilon(1e-5)
                            .init(&device);
                        let gamma = random([d], dtype, &device, &mut rng).0;
                        norm.gamma = burn::module::Param::from_tensor(gamma);
                        norm
                    };
                    HeadNorms::new(norm(), norm())
                })
            });
            for norms in norms {
                let [mut expected, mut found] = caches(&shape, dtype, &device);
                for new_tokens in steps(&shape) {
                    let step = begin(&mut expected, &new_tokens);
                    let tokens = step.max_new_tokens();
                    let qkv = random([batch, tokens, heads, d], dtype, &device, &mut rng).0;
                    let rotations = rope.rotations(step.positions().clone());
                    let query = ops::reference::rotate_append(
                        expected.layer_mut(0),
                        qkv.clone(),
                        norms.as_ref(),
                        Some(&rotations),
                        &step,
                    );
                    let step = begin(&mut found, &new_tokens);
                    let rotated = ops::rotate_append(
                        found.layer_mut(0),
                        qkv,
                        norms.as_ref(),
                        Some(&rotations),
                        &step,
                    );
                    for (sequence, &n) in new_tokens.iter().enumerate().filter(|(_, n)| **n > 0) {
                        let rows = |query: &Tensor<4>| {
                            let rows = [sequence..sequence + 1, 0..shape.n_heads, 0..n];
                            floats(&query.clone().slice(rows))
                        };
                        let what = format!("{shape}, {dtype:?}: queries");
                        let (found, expected) = (rows(&rotated), rows(&query));
                        assert_close(&found, &expected, tolerance(dtype), &what);
                    }
                }
                let (expected, found) = (expected.layer(0), found.layer(0));
                for (what, found, expected) in [
                    ("keys", found.keys(), expected.keys()),
                    ("values", found.values(), expected.values()),
                    ("digests", found.digests(), expected.digests()),
                ] {
                    let what = format!("{shape}, {dtype:?}: {what}");
                    assert_close(&floats(found), &floats(expected), tolerance(dtype), &what);
                }
            }
        }
    }
}

const EPSILON: f64 = 1e-5;

/// RMSNorm of rows as long as the weight.
fn normed_rows(rows: &[f64], weight: &[f64]) -> Vec<f64> {
    let d = weight.len();
    let normed = rows.chunks(d).flat_map(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / d as f64;
        let rms = (mean + EPSILON).sqrt();
        row.iter().zip(weight).map(move |(x, w)| x / rms * w)
    });
    normed.collect()
}

/// What goes before and after the products of a linear layer.
#[derive(Clone, Copy, Debug)]
struct Around {
    normed: bool,
    biased: bool,
    gated: bool,
    added: bool,
}

const AROUND: [Around; 5] = {
    let nothing = Around {
        normed: false,
        biased: false,
        gated: false,
        added: false,
    };
    [
        nothing,
        Around {
            biased: true,
            added: true,
            ..nothing
        },
        Around {
            gated: true,
            ..nothing
        },
        Around {
            normed: true,
            ..nothing
        },
        Around {
            normed: true,
            biased: true,
            gated: true,
            added: true,
        },
    ]
};

/// Random inputs of a linear layer of `n` outputs, on the device and on the host.
struct LinearInputs {
    around: Around,
    k: usize,
    n: usize,
    rows: (Tensor<2>, Vec<f64>),
    gamma: Tensor<1>,
    bias: (Tensor<1>, Vec<f64>),
    residual: (Tensor<2>, Vec<f64>),
}

impl LinearInputs {
    fn new(
        [m, k, n]: [usize; 3],
        around: Around,
        (device, dtype): (&Device, DType),
        rng: &mut StdRng,
    ) -> Self {
        let columns = if around.gated { n / 2 } else { n };
        Self {
            around,
            k,
            n,
            rows: random([m, k], dtype, device, rng),
            gamma: random([k], dtype, device, rng).0,
            bias: random([n], dtype, device, rng),
            residual: random([m, columns], dtype, device, rng),
        }
    }

    fn rows(&self) -> Tensor<2> {
        self.rows.0.clone()
    }

    fn norm(&self) -> Option<(Tensor<1>, f64)> {
        let norm = (self.gamma.clone(), EPSILON);
        self.around.normed.then_some(norm)
    }

    fn bias(&self) -> Option<Tensor<1>> {
        self.around.biased.then(|| self.bias.0.clone())
    }

    fn residual(&self) -> Option<Tensor<2>> {
        self.around.added.then(|| self.residual.0.clone())
    }

    /// What the layer gives with weights `[n, k]`.
    fn expected(&self, weight: &[f64]) -> Vec<f64> {
        let Self { around, k, n, .. } = *self;
        // Rounded as the kernel rounds: a gate multiplies what differs.
        let x = match self.norm() {
            Some((gamma, epsilon)) => floats(&kernels::rms_norm(self.rows(), gamma, epsilon)),
            None => self.rows.1.clone(),
        };
        let columns = if around.gated { n / 2 } else { n };
        let product = |row: usize, channel: usize| {
            let x = &x[row * k..][..k];
            let w = &weight[channel * k..][..k];
            let sum = x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
            sum + if around.biased {
                self.bias.1[channel]
            } else {
                0.0
            }
        };
        let outputs = self.residual.1.iter().enumerate().map(|(i, r)| {
            let (row, channel) = (i / columns, i % columns);
            let mut value = product(row, channel);
            if around.gated {
                value = value / (1.0 + (-value).exp()) * product(row, columns + channel);
            }
            value + if around.added { *r } else { 0.0 }
        });
        outputs.collect()
    }
}

/// Holds a linear layer of random weights `[n, k]` and `m` rows against its sums on the host.
fn assert_layer_equals_sums(
    [m, k, n]: [usize; 3],
    around: Around,
    (device, dtype): (&Device, DType),
    rng: &mut StdRng,
) {
    let inputs = LinearInputs::new([m, k, n], around, (device, dtype), rng);
    let (weight, w) = random([n, k], dtype, device, rng);
    let output = kernels::linear::gemv(
        inputs.rows(),
        inputs.norm(),
        weight,
        inputs.bias(),
        inputs.residual(),
        around.gated,
    );
    let what = format!("{m} rows of {k}, {n} outputs, {dtype:?}, {around:?}");
    // Sums of terms up to 4 in size cancel.
    let tolerance = tolerance(dtype) * (k as f64).sqrt().max(4.0);
    assert_close(&floats(&output), &inputs.expected(&w), tolerance, &what);
}

#[test]
fn linear_layers_of_a_few_rows_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(2);
    for (device, dtype) in targets() {
        for (m, k, n) in [
            (1, 64, 32),
            (1, 4096, 6),
            (2, 96, 130),
            (3, 1000, 34),
            (4, 512, 512),
            (5, 7, 10),
            (8, 256, 98),
            (1, 1, 2),
            // More outputs than planes at once.
            (1, 16, 9000),
            (3, 8, 40_000),
        ] {
            for around in AROUND {
                assert_layer_equals_sums([m, k, n], around, (&device, dtype), &mut rng);
            }
        }
    }
}

/// CubeCL devices with matrix instructions among those that are asked for, and their dtypes.
fn matrix_targets() -> impl Iterator<Item = (Device, DType)> {
    let targets = targets().into_iter();
    targets.filter(|(device, dtype)| {
        kernels::linear::most_rows(device, *dtype, 64) > kernels::linear::MAX_ROWS
    })
}

#[test]
fn linear_layers_of_a_batch_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut compared = 0;
    for (device, dtype) in matrix_targets() {
        for (m, k, n) in [
            (9, 64, 32),
            (16, 1088, 34),
            (33, 512, 98),
            (64, 320, 130),
            (17, 64, 2),
            (40, 2048, 1030),
            // Few outputs of many channels, which cubes take a part of.
            (64, 4096, 6),
            (16, 2048, 66),
            // More outputs than cubes take at once.
            (9, 64, 40_000),
            (64, 64, 36_002),
        ] {
            for around in AROUND {
                assert_layer_equals_sums([m, k, n], around, (&device, dtype), &mut rng);
                compared += 1;
            }
        }
    }
    println!("{compared} layers compared");
}

#[test]
fn packed_weights_of_a_batch_are_those_that_they_stand_for() {
    let mut rng = StdRng::seed_from_u64(8);
    for (device, dtype) in matrix_targets() {
        for config in quantizations() {
            let (m, k, n) = (19, 256, 34);
            let inputs = LinearInputs::new([m, k, n], AROUND[1], (&device, dtype), &mut rng);
            let (weight, _) = random([n, k], dtype, &device, &mut rng);
            let weight = QuantizedWeight::new(weight, config).unwrap();
            let expected = inputs.expected(&unpacked(&weight));
            let layer = InferenceLinear::quantized(weight, inputs.bias());
            let output = layer.forward_added(inputs.rows(), inputs.residual().unwrap());
            let what = format!("{config}, {dtype:?}");
            let tolerance = tolerance(dtype) * (k as f64).sqrt();
            assert_close(&floats(&output), &expected, tolerance, &what);
        }
    }
}

#[test]
fn rows_of_a_batch_need_matrix_instructions_and_whole_steps() {
    for (device, dtype) in targets() {
        let most = |d_input| kernels::linear::most_rows(&device, dtype, d_input);
        assert_eq!(most(96), kernels::linear::MAX_ROWS);
        if dtype == DType::F32 {
            assert_eq!(most(128), kernels::linear::MAX_ROWS);
        } else {
            assert_eq!(most(128) == 64, kernels::prefills(&device, dtype, 64));
        }
    }
}

/// What packed weights stand for, `[n, k]`.
fn unpacked(weight: &QuantizedWeight) -> Vec<f64> {
    let packed = weight.packed();
    let [_, k] = packed.dims();
    let (bits, group) = (packed.bits, weight.group());
    let words = read(packed.words);
    let scales = floats(&packed.scales);
    let zeros = packed.zeros.map(|zeros| floats(&zeros));
    let middle = (1 << (bits - 1)) as f64;
    let per_word = 32 / bits;
    let weights = (0..words.len() * per_word).map(|i| {
        let word = words[i / per_word] as u32;
        let integer = (word >> (i % per_word * bits)) & ((1 << bits) - 1);
        let of_group = i / k * (k / group) + i % k / group;
        let zero = zeros.as_ref().map_or(middle, |zeros| zeros[of_group]);
        (f64::from(integer) - zero) * scales[of_group]
    });
    weights.collect()
}

/// 4 and 8 bits, symmetric and asymmetric.
fn quantizations() -> impl Iterator<Item = QuantizationConfig> {
    let configs = [(4, false), (4, true), (8, false), (8, true)];
    let configs = configs.into_iter();
    configs.map(|(bits, asymmetric)| QuantizationConfig::new(bits).with_asymmetric(asymmetric))
}

#[test]
fn linear_layers_with_packed_weights_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(5);
    for (device, dtype) in targets() {
        for (m, k, n) in [
            (1, 128, 32),
            (1, 4096, 6),
            // Groups of 16, of which 4 bits take half a load.
            (2, 48, 130),
            (3, 704, 34),
            (4, 512, 96),
            (5, 32, 10),
            (8, 256, 98),
            // Whole groups that no power of two divides among planes.
            (1, 11008, 18),
            (2, 2816, 20),
            (6, 1152, 20),
            // More outputs than planes at once.
            (1, 16, 9000),
            (2, 256, 9000),
        ] {
            for config in quantizations() {
                // The left sides and what follows are the dense kernel's.
                for around in [AROUND[0], AROUND[4]] {
                    let inputs = LinearInputs::new([m, k, n], around, (&device, dtype), &mut rng);
                    let (weight, _) = random([n, k], dtype, &device, &mut rng);
                    // Some kernels round normed rows and some do not: a gate of the size of one does
                    // not multiply what differs.
                    let weight = weight.div_scalar((k as f64).sqrt());
                    let weight = QuantizedWeight::new(weight, config).unwrap();
                    let output = kernels::linear::quantized_gemv(
                        inputs.rows(),
                        inputs.norm(),
                        weight.packed(),
                        inputs.bias(),
                        inputs.residual(),
                        around.gated,
                    );
                    let what = format!("{m} rows of {k}, {n} outputs, {config}, {around:?}");
                    let expected = inputs.expected(&unpacked(&weight));
                    assert_close(&floats(&output), &expected, 4.0 * tolerance(dtype), &what);
                }
            }
        }
    }
}

#[test]
fn packed_weights_do_not_hide_what_is_no_number() {
    let mut rng = StdRng::seed_from_u64(7);
    for (device, dtype) in targets() {
        for config in quantizations() {
            let (_, mut rows) = random([2, 256], dtype, &device, &mut rng);
            rows[200] = f64::NAN;
            let rows = rows.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let rows = tensor(&rows, [2, 256], dtype, &device);
            let (weight, _) = random([34, 256], dtype, &device, &mut rng);
            let weight = QuantizedWeight::new(weight, config).unwrap().packed();
            let output = kernels::linear::quantized_gemv(rows, None, weight, None, None, false);
            let output = floats(&output);
            let what = format!("{config}, {dtype:?}: {output:?}");
            assert!(output[..34].iter().all(|x| x.is_nan()), "{what}");
            assert!(output[34..].iter().all(|x| x.is_finite()), "{what}");
        }
    }
}

#[test]
fn packed_weights_are_unpacked_as_by_tensor_operations() {
    let mut rng = StdRng::seed_from_u64(6);
    for (device, dtype) in targets() {
        for (n, k) in [(6, 128), (33, 48), (10, 704), (1, 16), (300, 4096)] {
            for config in quantizations() {
                let (weight, values) = random([n, k], dtype, &device, &mut rng);
                let weight = QuantizedWeight::new(weight, config).unwrap();
                let what = format!("{n} rows of {k}, {config}, {dtype:?}");
                let expected = floats(&weight.reference());
                assert_eq!(floats(&weight.dequantize()), expected, "{what}");
                assert_close(&expected, &unpacked(&weight), tolerance(dtype), &what);
                let scales = floats(weight.scales());
                let of_group = |i: usize| i / k * (k / weight.group()) + i % k / weight.group();
                for (i, (value, found)) in values.iter().zip(unpacked(&weight)).enumerate() {
                    // A driver may divide by a scale before it is rounded, of which a weight is up to 255.
                    let step = scales[of_group(i)];
                    let most = if dtype == DType::F32 { 0.5001 } else { 0.65 };
                    assert!(
                        (value - found).abs() <= most * step,
                        "{what}: {value}, {found}"
                    );
                }
            }
        }
    }
}

#[test]
fn norms_equal_those_in_f64() {
    let mut rng = StdRng::seed_from_u64(3);
    for (device, dtype) in targets() {
        for (rows, d) in [(1, 4096), (3, 48), (17, 130), (2, 7), (1, 1)] {
            let (x, values) = random([rows, d], dtype, &device, &mut rng);
            let (gamma, weights) = random([d], dtype, &device, &mut rng);
            let output = kernels::rms_norm(x, gamma, EPSILON);
            let expected = normed_rows(&values, &weights);
            let what = format!("{rows} rows of {d} in {dtype:?}");
            assert_close(&floats(&output), &expected, tolerance(dtype), &what);
        }
    }
}

#[test]
fn the_next_token_has_the_highest_logit_and_the_state_moves_on() {
    let mut rng = StdRng::seed_from_u64(4);
    for (device, dtype) in targets() {
        for vocab_size in [1, 5, 197, 1000, 32000] {
            let batch = 6;
            let (logits, _) = random([batch, vocab_size], dtype, &device, &mut rng);
            // Few distinct values, so that the highest occurs more than once.
            let mut rows = floats(&logits.clone().mul_scalar(2.0).round());
            let n = vocab_size;
            rows[n..2 * n].fill(f64::NEG_INFINITY);
            rows[2 * n..3 * n].fill(-7.0);
            rows[3 * n + n / 2] = f64::NAN;
            rows[4 * n + n - 1] = f64::INFINITY;
            let values = rows.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let logits = tensor(&values, [batch, n], dtype, &device);
            let highest = (0..n)
                .rev()
                .max_by(|&a, &b| rows[a].partial_cmp(&rows[b]).unwrap());
            let state = kernels::next_tokens(
                logits,
                ints(&[1, 1, 1, 1, 1, 0], &device),
                DecodeState {
                    tokens: ints(&[40; 6], &device),
                    starts: ints(&[5, 3, 8, 0, 1, 2], &device),
                    lengths: ints(&[6, 4, 9, 1, 2, 3], &device),
                    history: ints(&[-9; 24], &device).reshape([6, 4]),
                },
            );
            let highest = highest.unwrap() as i32;
            assert_eq!(read(state.tokens), [highest, 0, 0, 0, 0, 40], "{n}");
            assert_eq!(read(state.starts), [6, 4, 9, 1, 2, 2]);
            assert_eq!(read(state.lengths), [7, 5, 10, 2, 3, 3]);
            let mut history = [-9; 24];
            history[1] = highest;
            history[4 + 3] = -1;
            history[8] = 0;
            history[12] = -1;
            history[16 + 1] = -1;
            assert_eq!(read(state.history), history);
        }
    }
}

#[test]
fn values_are_assigned_in_place() {
    for (device, _) in targets() {
        let values = (0..70).collect::<Vec<_>>();
        let target = kernels::assign(ints(&[7; 70], &device), ints(&values, &device));
        assert_eq!(read(target), values);
    }
}
