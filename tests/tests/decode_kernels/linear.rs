//! Linear layers of a few rows and of batches.

use burn::tensor::{DType, Device};
use quest_burn_linear::kernels;
use quest_burn_tests::{arrays::assert_close, devices::devices};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    floats,
    linear_inputs::{AROUND, Around, LinearInputs},
    matrix_targets, random, targets, tolerance,
};

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
            // Few outputs and many channels, which cubes take a segment each of.
            (40, 4096, 98),
            // Of the multiprocessors' cubes some have fewer outputs.
            (16, 192, 4100),
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
fn linear_layers_of_more_than_64_rows_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(9);
    for (device, dtype) in matrix_targets() {
        for (m, k, n) in [(65, 128, 98), (100, 2048, 34), (128, 320, 4100)] {
            if m <= kernels::linear::max_rows(&device, dtype, k) {
                for around in AROUND {
                    assert_layer_equals_sums([m, k, n], around, (&device, dtype), &mut rng);
                }
            }
        }
    }
}

#[test]
fn rows_of_a_batch_need_matrix_instructions_and_whole_steps() {
    let devices = devices().into_iter();
    for device in devices.filter(|device| kernels::device::supported(&device.device)) {
        let most = |dtype, d_input| kernels::linear::max_rows(&device.device, dtype, d_input);
        assert_eq!(most(DType::F32, 128), kernels::linear::MAX_ROWS, "{device}");
        for dtype in [DType::F16, DType::BF16] {
            assert_eq!(most(dtype, 96), kernels::linear::MAX_ROWS, "{device}");
            // Of the devices that tests run on these have registers that a kernel holds itself, and H100 and
            // H200 more of them.
            let expected: &[usize] = match device.name.as_str() {
                "cuda" => &[64, 128],
                _ => &[kernels::linear::MAX_ROWS],
            };
            assert!(expected.contains(&most(dtype, 128)), "{device}");
        }
    }
}
