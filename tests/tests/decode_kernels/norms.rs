//! RMSNorm of rows.

use quest_burn_linear::kernels;
use quest_burn_tests::arrays::assert_close;
use rand::{SeedableRng, rngs::StdRng};

use super::{EPSILON, floats, random, targets, tolerance};

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
