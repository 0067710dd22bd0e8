use std::{hint::black_box, time::Instant};

use burn::tensor::{Device, capture};
use serde::Serialize;

/// Microseconds of one call: the median of several rounds, the fastest and the slowest.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timing {
    pub median_us: f64,
    pub least_us: f64,
    pub most_us: f64,
    /// Whether the device replayed a recorded graph, or the launches were issued again.
    pub graph: bool,
}

const ROUNDS: usize = 9;
/// A round is long against the clock and a replay's own cost.
const ROUND_SECONDS: f64 = 0.01;

/// Times `call(i)` over `rotation` different inputs, captured together.
pub fn time<T>(device: &Device, rotation: usize, call: impl Fn(usize) -> T) -> Timing {
    let mut graph = capture(device, || (0..rotation).map(&call).collect::<Vec<T>>());
    sync(device);
    let mut round = |replays: usize| {
        let start = Instant::now();
        for _ in 0..replays {
            // SAFETY: the inputs are alive and nothing else runs on the device.
            black_box(unsafe { graph.replay() });
        }
        sync(device);
        start.elapsed().as_secs_f64()
    };
    round(2);
    let replays = (ROUND_SECONDS / (round(3) / 3.0)).ceil().clamp(3.0, 2000.0) as usize;
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| round(replays) * 1e6 / (replays * rotation) as f64)
        .collect();
    times.sort_by(f64::total_cmp);
    Timing {
        median_us: times[ROUNDS / 2],
        least_us: times[0],
        most_us: times[ROUNDS - 1],
        graph: graph.is_hardware(),
    }
}

pub fn sync(device: &Device) {
    device.sync().expect("the device finishes its work");
}
