//! Times of the linear layers of a decode step on a GPU: `cargo run --release --example layers --features cuda -- 16,64 f16,int4`,
//! numbers of rows and forms of weights. A line of JSON each: microseconds of recorded launches over weights in turn,
//! their bytes over that time, and how far the result is from that of the kernels of prompts.
//!
//! With `-- 1 f16,bf16,int8 0,25,50,70` there are lines besides of layers of one row that skip so many per cent of the
//! input channels, with the bytes that they read; there are none for int4.

mod sparse;
mod timing;

use burn::tensor::{DType, Device, Tensor};
use quest_burn_linear::{
    InferenceLinear, LinearWeight, QuantizationConfig, QuantizedWeight, kernels,
};

use timing::{LAYERS, TURNS, distance, finished, random, time};

/// The element type of rows that a form of weights is multiplied with.
pub(crate) fn dtype_of(form: &str) -> DType {
    match form {
        "bf16" => DType::BF16,
        _ => DType::F16,
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rows = arguments.next().unwrap_or_else(|| "16,64".to_owned());
    let rows = rows
        .split(',')
        .map(|m| m.parse::<usize>().expect("a number of rows"));
    let rows = rows.collect::<Vec<_>>();
    let forms = arguments.next().unwrap_or_else(|| "f16".to_owned());
    let skipped = arguments.next().unwrap_or_default();
    let skipped = skipped.split(',').filter(|percent| !percent.is_empty());
    let skipped = skipped.map(|percent| {
        let percent = percent.parse::<usize>().ok();
        percent
            .filter(|&percent| percent <= 100)
            .expect("a percentage")
    });
    let skipped = skipped.collect::<Vec<_>>();
    let device = Device::default();
    for form in forms.split(',') {
        sparse::measure(&device, form, &skipped);
        for (name, n, k, [gated, added]) in LAYERS {
            let bits = match form {
                "int4" => 4,
                "int8" => 8,
                _ => 16,
            };
            let dtype = dtype_of(form);
            // With a scale and a zero point for each 128 weights.
            let bytes = n * k * bits / 8 + if bits < 16 { n * k / 128 * 4 } else { 0 };
            let rotation = TURNS.div_ceil(bytes).max(2);
            let layers = (0..rotation).map(|_| {
                let weight = random([n, k], &device, dtype) / (k as f32).sqrt();
                match bits {
                    16 => (Some(weight.clone()), InferenceLinear::new(weight, None)),
                    bits => {
                        let config = QuantizationConfig::new(bits).with_asymmetric(true);
                        let weight = QuantizedWeight::new(weight, config).expect("it is packed");
                        (None, InferenceLinear::quantized(weight, None))
                    }
                }
            });
            let layers = layers.collect::<Vec<_>>();
            let whole = match layers[0].1.weight() {
                LinearWeight::Quantized(weight) => weight.dequantize(),
                _ => layers[0].0.clone().expect("it is whole"),
            };
            for &m in &rows {
                let x = random([m, k], &device, dtype);
                // Packed weights are gated behind a norm only.
                let gated = gated && bits == 16;
                let columns = if gated { n / 2 } else { n };
                let residual = added.then(|| random([m, columns], &device, dtype));
                let forward = |i: usize, x: Tensor<2>, residual: Option<Tensor<2>>| {
                    let (weight, layer) = &layers[i];
                    match weight {
                        Some(weight) => {
                            kernels::linear::gemv(x, None, weight.clone(), None, residual, gated)
                        }
                        None => match residual {
                            Some(residual) => layer.forward_added(x, residual),
                            None => layer.forward(x),
                        },
                    }
                };
                let expected = kernels::matmul_rows(x.clone(), whole.clone());
                let expected = finished(expected, gated, residual.as_ref());
                let found = forward(0, x.clone(), residual.clone());
                let apart = distance(&found, &expected);
                let us = time(&device, rotation, |i| {
                    forward(i, x.clone(), residual.clone())
                });
                println!(
                    "{{\"layer\":\"{name}\",\"outputs\":{n},\"inputs\":{k},\"weights\":\"{form}\",\"rows\":{m},\
                     \"bytes\":{bytes},\"median_us\":{us:.2},\"gb_per_s\":{:.0},\"distance\":{apart:.1e}}}",
                    bytes as f64 / us / 1e3
                );
            }
        }
    }
}
