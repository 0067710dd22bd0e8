//! Matrix products of many rows.

use burn::tensor::DType;
use quest_burn_linear::kernels;
use quest_burn_tests::arrays::assert_close;
use rand::{SeedableRng, rngs::StdRng};

use super::{floats, matrix_targets, random, targets, tolerance};

#[test]
fn products_of_many_rows_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(11);
    for (device, dtype) in targets() {
        for [m, k, n] in [
            [65, 64, 32],
            [200, 128, 98],
            [17, 40, 7],
            [128, 576, 192],
            [1, 3, 5],
            // As many outputs as take the kernel for wide layers.
            [96, 32, 8200],
            // What the kernel for H100 and H200 takes in its smallest tiles, with a part of the last one.
            [70, 136, 200],
            [129, 200, 264],
        ] {
            let (rows, x) = random([m, k], dtype, &device, &mut rng);
            let (weight, w) = random([n, k], dtype, &device, &mut rng);
            let expected = sums([&x, &w], k);
            let what = format!("{m} rows of {k}, {n} outputs, {dtype:?}");
            // Sums of terms up to 4 in size cancel.
            let tolerance = tolerance(dtype) * (k as f64).sqrt().max(4.0);
            assert_close(
                &floats(&kernels::matmul_rows(rows, weight)),
                &expected,
                tolerance,
                &what,
            );
        }
    }
}

/// All products of rows of `k` channels.
fn sums([x, w]: [&[f64]; 2], k: usize) -> Vec<f64> {
    let of_row = |x: &[f64]| {
        let sum = |w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        w.chunks(k).map(sum).collect::<Vec<_>>()
    };
    x.chunks(k).flat_map(of_row).collect()
}

/// Compares one product in 61, which is prime, so that all columns and rows have their turn.
fn assert_some(
    products: &[f64],
    [x, w]: [&[f64]; 2],
    [n, k]: [usize; 2],
    dtype: DType,
    what: &str,
) {
    for (at, product) in products.iter().enumerate().step_by(61) {
        let (row, column) = (at / n, at % n);
        let terms = x[row * k..][..k].iter().zip(&w[column * k..][..k]);
        let expected = terms.map(|(x, w)| x * w).sum::<f64>();
        let off = (product - expected).abs();
        let most = tolerance(dtype) * (k as f64).sqrt().max(expected.abs());
        assert!(
            off <= most,
            "{what}: row {row}, column {column}, {dtype:?}: off by {off}"
        );
    }
}

/// The sizes of tiles depend on how many there are: these are enough for the largest and for the next.
#[test]
fn products_of_every_size_of_tiles_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(12);
    let targets = matrix_targets().collect::<Vec<_>>();
    if targets.is_empty() {
        println!("no device with matrix instructions is named: nothing is tested");
    }
    for (device, dtype) in targets {
        for [m, k, n] in [[1100, 72, 4104], [500, 72, 4104]] {
            let (rows, x) = random([m, k], dtype, &device, &mut rng);
            let (weight, w) = random([n, k], dtype, &device, &mut rng);
            let products = floats(&kernels::matmul_rows(rows, weight));
            assert_some(
                &products,
                [&x, &w],
                [n, k],
                dtype,
                "the kernel that is taken",
            );
        }
    }
}

/// Kernels that are taken on other devices of the same kind, and every size of their tiles.
#[test]
fn products_by_every_kernel_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(14);
    for (device, dtype) in targets() {
        for [m, k, n] in [
            // A row past a tile, a part of a step, outputs past a tile.
            [129, 200, 264],
            [257, 72, 520],
            // Few rows, fewer channels than a step, outputs within a copy of 16 bytes.
            [1, 8, 8],
            [3, 24, 40],
            // As many steps as there are stages, and more.
            [65, 128, 72],
            [70, 1000, 200],
        ] {
            let (rows, x) = random([m, k], dtype, &device, &mut rng);
            let (weight, w) = random([n, k], dtype, &device, &mut rng);
            let expected = sums([&x, &w], k);
            for kernel in kernels::matmul_kernels(&device, dtype, [n, k]) {
                let products = kernels::matmul_rows_by(kernel, rows.clone(), weight.clone());
                let what = format!("{kernel}: {m} rows of {k}, {n} outputs, {dtype:?}");
                let tolerance = tolerance(dtype) * (k as f64).sqrt().max(4.0);
                assert_close(&floats(&products), &expected, tolerance, &what);
            }
        }
    }
}

/// Several bands of tiles, the last one lower, by every kernel.
#[test]
fn products_in_bands_of_tiles_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(15);
    let [m, k, n] = [1300, 72, 1032];
    for (device, dtype) in matrix_targets() {
        let (rows, x) = random([m, k], dtype, &device, &mut rng);
        let (weight, w) = random([n, k], dtype, &device, &mut rng);
        for kernel in kernels::matmul_kernels(&device, dtype, [n, k]) {
            let products = kernels::matmul_rows_by(kernel, rows.clone(), weight.clone());
            assert_some(
                &floats(&products),
                [&x, &w],
                [n, k],
                dtype,
                &kernel.to_string(),
            );
        }
    }
}

#[test]
fn rows_of_a_view_multiply_as_they_do_alone() {
    let mut rng = StdRng::seed_from_u64(13);
    for (device, dtype) in targets() {
        let (rows, _) = random([100, 64], dtype, &device, &mut rng);
        let (weight, _) = random([48, 64], dtype, &device, &mut rng);
        let whole = kernels::matmul_rows(rows.clone(), weight.clone()).narrow(0, 3, 90);
        let view = kernels::matmul_rows(rows.narrow(0, 3, 90), weight);
        assert_close(&floats(&view), &floats(&whole), tolerance(dtype), "a view");
    }
}
