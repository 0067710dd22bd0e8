//! Linear layers whose weights stay in the blocks of GGUF files.

use burn::tensor::{DType, Device, f16};
use quest_burn_linear::{InferenceLinear, LinearWeight, blocks::BlockFormat, kernels};
use quest_burn_tests::arrays::assert_close;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    floats,
    linear_inputs::{AROUND, LinearInputs},
    targets, tolerance,
};

/// Formats whose blocks kernels read, and where in a block its 16-bit floats are.
const KEPT: [(BlockFormat, &[usize]); 4] = [
    (BlockFormat::Q8_0, &[0]),
    (BlockFormat::Q4_0, &[0]),
    (BlockFormat::Q4_1, &[0, 2]),
    (BlockFormat::Q4_K, &[0, 2]),
];

/// Random blocks of `[n, k]` with 16-bit floats below `most`, and what they stand for.
fn blocks(
    (format, floats): (BlockFormat, &[usize]),
    [n, k]: [usize; 2],
    most: f32,
    rng: &mut StdRng,
) -> (Vec<u8>, Vec<f64>) {
    let mut bytes = vec![0; n * format.row_bytes(k).unwrap()];
    rng.fill(&mut bytes[..]);
    for block in bytes.chunks_exact_mut(format.bytes_per_block()) {
        for &at in floats {
            let float = f16::from_f32(rng.random_range(-most..most));
            block[at..at + 2].copy_from_slice(&float.to_le_bytes());
        }
    }
    let mut weights = vec![0.0; n * k];
    format.dequantize(&bytes, &mut weights).unwrap();
    (bytes, weights.into_iter().map(f64::from).collect())
}

/// So that weights are about as large as `1 / sqrt(k)`.
fn largest_float(format: BlockFormat, k: usize) -> f32 {
    let most = 1.0 / (k as f32).sqrt();
    match format {
        BlockFormat::Q8_0 => most / 128.0,
        BlockFormat::Q4_K => most / (63.0 * 8.0),
        _ => most / 8.0,
    }
}

fn weight(
    format: BlockFormat,
    dims: [usize; 2],
    bytes: Vec<u8>,
    (device, dtype): (&Device, DType),
) -> LinearWeight {
    let weight = LinearWeight::from_blocks(format, dims, bytes, dtype, device).unwrap();
    assert!(matches!(weight, LinearWeight::Blocks(_)), "{format}");
    let kept = LinearWeight::kept_bytes(format, dims, device);
    assert_eq!(Some(weight.bytes()), kept, "{format}");
    weight
}

#[test]
fn linear_layers_with_blocks_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(21);
    for (device, dtype) in targets() {
        for (m, k, n) in [
            (1, 256, 34),
            (2, 4096, 6),
            (5, 768, 66),
            (8, 512, 98),
            (1, 2816, 20),
        ] {
            for kept in KEPT {
                for around in [AROUND[0], AROUND[4]] {
                    let (format, _) = kept;
                    let inputs = LinearInputs::new([m, k, n], around, (&device, dtype), &mut rng);
                    let most = largest_float(format, k);
                    let (bytes, weights) = blocks(kept, [n, k], most, &mut rng);
                    let weight = weight(format, [n, k], bytes, (&device, dtype));
                    let LinearWeight::Blocks(weight) = weight else {
                        unreachable!()
                    };
                    let output = kernels::linear::gemv(
                        inputs.rows(),
                        inputs.norm(),
                        weight.kernel_weight().unwrap(),
                        inputs.bias(),
                        inputs.residual(),
                        around.gated,
                    );
                    let what = format!("{m} rows of {k}, {n} outputs, {format}, {around:?}");
                    let expected = inputs.expected(&weights);
                    assert_close(&floats(&output), &expected, 4.0 * tolerance(dtype), &what);
                }
            }
        }
    }
}

#[test]
fn rows_of_any_number_of_blocks_are_read() {
    let mut rng = StdRng::seed_from_u64(22);
    for (device, dtype) in targets() {
        // Q4_K has blocks of 256.
        for kept in &KEPT[..3] {
            for (k, n) in [(32, 5), (96, 7), (160, 3)] {
                let inputs = LinearInputs::new([3, k, n], AROUND[0], (&device, dtype), &mut rng);
                let (bytes, weights) = blocks(*kept, [n, k], largest_float(kept.0, k), &mut rng);
                let weight = weight(kept.0, [n, k], bytes, (&device, dtype));
                let output = InferenceLinear::with_weight(weight, None).forward(inputs.rows());
                let what = format!("rows of {k}, {n} outputs, {}", kept.0);
                let expected = inputs.expected(&weights);
                assert_close(&floats(&output), &expected, 4.0 * tolerance(dtype), &what);
            }
        }
    }
}

/// With the smallest scales, too, which 16 bits hold only as subnormal numbers.
#[test]
fn blocks_are_widened_to_what_they_stand_for() {
    let mut rng = StdRng::seed_from_u64(23);
    for (device, dtype) in targets() {
        for kept in KEPT {
            for most in [1.0, 1e-3, 2e-5] {
                let (n, k) = (6, 512);
                let (bytes, expected) = blocks(kept, [n, k], most, &mut rng);
                let weight = weight(kept.0, [n, k], bytes, (&device, dtype));
                let found = floats(&weight.dequantize());
                let largest = expected.iter().fold(0.0f64, |most, w| most.max(w.abs()));
                // Subnormal numbers of the dtype itself are coarser.
                let coarse = if dtype == DType::F16 { 6e-8 } else { 0.0 };
                for (found, expected) in found.iter().zip(&expected) {
                    let off = (found - expected).abs();
                    let most_off = tolerance(dtype) * largest + coarse;
                    assert!(off <= most_off, "{}, {most}: {found}, {expected}", kept.0);
                }
            }
        }
    }
}

/// As the keys and values of a Q4_K_M file have them.
#[test]
fn parts_of_several_formats_are_one_layer() {
    let mut rng = StdRng::seed_from_u64(24);
    for (device, dtype) in targets() {
        let k = 256;
        let parts = [(KEPT[3], 20), (KEPT[3], 10), (KEPT[0], 8)];
        for m in [1, 4, 13] {
            let mut weights = Vec::new();
            let mut all = Vec::new();
            for (kept, n) in parts {
                let most = largest_float(kept.0, k);
                let (bytes, values) = blocks(kept, [n, k], most, &mut rng);
                weights.push(weight(kept.0, [n, k], bytes, (&device, dtype)));
                all.extend(values);
            }
            let stacked = LinearWeight::stack(weights);
            let LinearWeight::Stacked(found) = &stacked else {
                panic!("expected parts, found {stacked:?}");
            };
            assert_eq!(found.len(), 2, "neighbours of one format are one part");
            let inputs = LinearInputs::new([m, k, 38], AROUND[1], (&device, dtype), &mut rng);
            let layer = InferenceLinear::with_weight(stacked, inputs.bias());
            let output = layer.forward_added(inputs.rows(), inputs.residual().unwrap());
            let what = format!("{m} rows in {dtype:?}");
            let expected = inputs.expected(&all);
            assert_close(&floats(&output), &expected, 4.0 * tolerance(dtype), &what);
        }
    }
}
