//! Times of the linear layers of a decode step on a GPU: `cargo run --release --example layers --features cuda -- 16,64 f16,int4`,
//! numbers of rows and forms of weights. A line of JSON each: microseconds of recorded launches over weights in turn,
//! their bytes over that time, and how far the result is from that of the kernels of prompts.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor, activation::silu, capture};
use quest_burn_linear::{
    InferenceLinear, LinearWeight, QuantizationConfig, QuantizedWeight, kernels,
};

/// Layers of the shape of Llama-3-8B: name, outputs, inputs, whether they are gated and added to a
/// residual.
const LAYERS: [(&str, usize, usize, [bool; 2]); 4] = [
    ("q, k, v", 6144, 4096, [false, false]),
    ("o", 4096, 4096, [false, true]),
    ("gate, up", 28_672, 4096, [true, false]),
    ("down", 4096, 14_336, [false, true]),
];
/// Bytes of the weights in turn: many times a last-level cache.
const TURNS: usize = 400 << 20;

/// Microseconds of a call, the median of rounds of replays.
fn time<T: Clone>(device: &Device, rotation: usize, mut call: impl FnMut(usize) -> T) -> f64 {
    let mut pass = 0;
    let mut graph = capture(device, || {
        // Memory cannot be taken while recording: the first pass leaves room.
        let times = if pass == 0 { 2 } else { 1 };
        pass += 1;
        (0..times * rotation)
            .map(|i| call(i % rotation))
            .collect::<Vec<_>>()
    });
    device.sync().expect("the device computes");
    assert!(graph.is_hardware(), "the device records no launches");
    let mut round = |replays: usize| {
        let start = Instant::now();
        for _ in 0..replays {
            // SAFETY: what the call reads and writes outlives the graph, and nothing else runs on the device.
            unsafe { graph.replay() };
        }
        device.sync().expect("the device computes");
        start.elapsed().as_secs_f64() / (replays * rotation) as f64
    };
    round(2);
    let replays = ((0.02 / round(3) / rotation as f64) as usize).clamp(3, 500);
    let mut times = [(); 5].map(|()| round(replays));
    times.sort_by(f64::total_cmp);
    times[2] * 1e6
}

fn random<const D: usize>(shape: [usize; D], device: &Device, dtype: DType) -> Tensor<D> {
    Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), (device, DType::F32)).cast(dtype)
}

/// The distance of two results over the size of the second.
fn distance(found: &Tensor<2>, expected: &Tensor<2>) -> f64 {
    let floats = |tensor: &Tensor<2>| {
        let data = tensor.clone().into_data().convert::<f32>();
        data.try_to_vec::<f32>().expect("floats")
    };
    let (found, expected) = (floats(found), floats(expected));
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x * x)).sum::<f64>();
    let apart = sum(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    (apart / sum(&mut expected.iter().copied())).sqrt()
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rows = arguments.next().unwrap_or_else(|| "16,64".to_owned());
    let rows = rows
        .split(',')
        .map(|m| m.parse::<usize>().expect("a number of rows"));
    let rows = rows.collect::<Vec<_>>();
    let forms = arguments.next().unwrap_or_else(|| "f16".to_owned());
    let device = Device::default();
    for form in forms.split(',') {
        for (name, n, k, [gated, added]) in LAYERS {
            let bits = match form {
                "int4" => 4,
                "int8" => 8,
                _ => 16,
            };
            let dtype = if form == "bf16" {
                DType::BF16
            } else {
                DType::F16
            };
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
                let mut expected = kernels::matmul_rows(x.clone(), whole.clone());
                if gated {
                    let [gate, up] = [0, columns].map(|at| expected.clone().narrow(1, at, columns));
                    expected = silu(gate) * up;
                }
                if let Some(residual) = residual.clone() {
                    expected = expected + residual;
                }
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
