//! What is timed and how.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor, activation::silu, capture};

/// Layers of the shape of Llama-3-8B: name, outputs, inputs, whether they are gated and added to a
/// residual.
pub(crate) const LAYERS: [(&str, usize, usize, [bool; 2]); 4] = [
    ("q, k, v", 6144, 4096, [false, false]),
    ("o", 4096, 4096, [false, true]),
    ("gate, up", 28_672, 4096, [true, false]),
    ("down", 4096, 14_336, [false, true]),
];
/// Bytes of the weights in turn: many times a last-level cache.
pub(crate) const TURNS: usize = 400 << 20;

/// Microseconds of a call, the median of rounds of replays.
pub(crate) fn time<T: Clone>(
    device: &Device,
    rotation: usize,
    mut call: impl FnMut(usize) -> T,
) -> f64 {
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

/// Numbers from the normal distribution.
pub(crate) fn random<const D: usize>(
    shape: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), (device, DType::F32)).cast(dtype)
}

/// The distance of two results over the size of the second.
pub(crate) fn distance(found: &Tensor<2>, expected: &Tensor<2>) -> f64 {
    let floats = |tensor: &Tensor<2>| {
        let data = tensor.clone().into_data().convert::<f32>();
        data.try_to_vec::<f32>().expect("floats")
    };
    let (found, expected) = (floats(found), floats(expected));
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x * x)).sum::<f64>();
    let apart = sum(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
    (apart / sum(&mut expected.iter().copied())).sqrt()
}

/// What follows a layer's products, in tensor operations.
pub(crate) fn finished(
    products: Tensor<2>,
    gated: bool,
    residual: Option<&Tensor<2>>,
) -> Tensor<2> {
    let mut outputs = products;
    if gated {
        let columns = outputs.dims()[1] / 2;
        let [gate, up] = [0, columns].map(|at| outputs.clone().narrow(1, at, columns));
        outputs = silu(gate) * up;
    }
    match residual {
        Some(residual) => outputs + residual.clone(),
        None => outputs,
    }
}
