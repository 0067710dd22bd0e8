//! Linear layers with packed weights, and the weights unpacked.

use burn::tensor::DType;
use quest_burn_linear::{InferenceLinear, QuantizationConfig, QuantizedWeight, kernels};
use quest_burn_tests::arrays::assert_close;
use rand::{SeedableRng, rngs::StdRng};

use super::{
    floats,
    linear_inputs::{AROUND, LinearInputs},
    matrix_targets, random, random_within, read, targets, tensor, tolerance,
};

/// What packed weights stand for, `[n, k]`.
pub(super) fn unpacked(weight: &QuantizedWeight) -> Vec<f64> {
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
                    // Some kernels round normed rows and some do not: a gate of the size of one does
                    // not multiply what differs.
                    let most = 2.0 / (k as f32).sqrt();
                    let (weight, _) = random_within(most, [n, k], dtype, &device, &mut rng);
                    let weight = QuantizedWeight::new(weight, config).unwrap();
                    let output = kernels::linear::gemv(
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
fn packed_weights_with_the_rows_of_a_batch_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(10);
    let mut compared = 0;
    for (device, dtype) in matrix_targets() {
        for (m, k, n) in [
            (9, 128, 34),
            (16, 4096, 260),
            (33, 384, 98),
            // Segments of the channels.
            (64, 2048, 130),
            (128, 640, 96),
            // More outputs than cubes take at once.
            (12, 128, 40_000),
        ] {
            for config in quantizations() {
                let (weight, _) =
                    random_within(2.0 / (k as f32).sqrt(), [n, k], dtype, &device, &mut rng);
                let weight = QuantizedWeight::new(weight, config).unwrap();
                for around in [AROUND[1], AROUND[4]] {
                    let packed = weight.packed().into();
                    if kernels::linear::packed_rows(&packed, dtype, around.normed, m) < m {
                        continue;
                    }
                    let inputs = LinearInputs::new([m, k, n], around, (&device, dtype), &mut rng);
                    let output = kernels::linear::gemv(
                        inputs.rows(),
                        inputs.norm(),
                        packed,
                        inputs.bias(),
                        inputs.residual(),
                        around.gated,
                    );
                    let what = format!("{m} rows of {k}, {n} outputs, {config}, {around:?}");
                    let expected = inputs.expected(&unpacked(&weight));
                    assert_close(&floats(&output), &expected, 4.0 * tolerance(dtype), &what);
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} layers compared");
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
            let output = kernels::linear::gemv(rows, None, weight, None, None, false);
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
