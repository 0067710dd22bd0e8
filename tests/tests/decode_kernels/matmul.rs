//! Matrix products of many rows.

use quest_burn_linear::kernels;
use quest_burn_tests::arrays::assert_close;
use rand::{SeedableRng, rngs::StdRng};

use super::{floats, random, targets, tolerance};

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
        ] {
            let (rows, x) = random([m, k], dtype, &device, &mut rng);
            let (weight, w) = random([n, k], dtype, &device, &mut rng);
            let expected = x.chunks(k).flat_map(|x| {
                let sum = |w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
                w.chunks(k).map(sum).collect::<Vec<_>>()
            });
            let expected = expected.collect::<Vec<_>>();
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
