//! Layers of one row that skip input channels.

use burn::tensor::{Device, Tensor};
use quest_burn_linear::{SparseWeight, channel_norms, kernels::linear::sparse_gemv};

use super::{
    dtype_of,
    timing::{LAYERS, TURNS, distance, finished, random, time},
};

/// Prints a line for each layer and percentage of skipped channels.
pub(crate) fn measure(device: &Device, form: &str, skipped: &[usize]) {
    if form == "int4" {
        return;
    }
    let dtype = dtype_of(form);
    for (name, n, k, [gated, added]) in LAYERS {
        let row = random([1, k], device, dtype);
        let columns = if gated { n / 2 } else { n };
        let residual = added.then(|| random([1, columns], device, dtype));
        for &percent in skipped {
            let sparse = || {
                let weight = random([n, k], device, dtype) / (k as f32).sqrt();
                let threshold = threshold(&row, &channel_norms(&weight), percent);
                match form {
                    "int8" => SparseWeight::int8(weight, threshold, None).expect("it is rounded"),
                    _ => SparseWeight::new(weight, threshold, None),
                }
            };
            let first = sparse();
            let bytes = first.bytes() as usize;
            let rotation = TURNS.div_ceil(bytes).max(2);
            let rest = (1..rotation).map(|_| sparse());
            let weights: Vec<_> = [first].into_iter().chain(rest).collect();
            let forward = |weight: &SparseWeight| {
                let (row, residual) = (row.clone(), residual.clone());
                sparse_gemv(row, None, weight.kernel_weight(), None, residual, gated)
            };
            let expected = weights[0].reference(row.clone());
            let expected = finished(expected, gated, residual.as_ref());
            let apart = distance(&forward(&weights[0]), &expected);
            let us = time(device, rotation, |i| forward(&weights[i]));
            let bytes = bytes * (100 - percent) / 100;
            println!(
                "{{\"layer\":\"{name}\",\"outputs\":{n},\"inputs\":{k},\"weights\":\"{form}\",\"rows\":1,\
                 \"skipped\":{percent},\"bytes\":{bytes},\"median_us\":{us:.2},\"gb_per_s\":{:.0},\
                 \"distance\":{apart:.1e}}}",
                bytes as f64 / us / 1e3
            );
        }
    }
}

/// The threshold by which a row skips so many per cent of its channels.
fn threshold(row: &Tensor<2>, norms: &[f32], percent: usize) -> f32 {
    let values = row.clone().into_data().convert::<f32>();
    let values = values.try_to_vec::<f32>().expect("floats");
    let scores = values.iter().zip(norms).map(|(x, norm)| x.abs() * norm);
    let mut scores: Vec<f32> = scores.collect();
    scores.sort_by(f32::total_cmp);
    match norms.len() * percent / 100 {
        // No score is below it.
        0 => -1.0,
        skipped => scores[skipped - 1],
    }
}
