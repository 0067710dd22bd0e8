use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use burn::tensor::{Device, capture};
use clap::ValueEnum;
use serde::Serialize;

use crate::BenchError;

/// How work reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Launch {
    /// Recorded once and replayed as one dispatch, where the device has hardware graphs
    Graph,
    /// Issued by the host operation by operation
    Plain,
}

/// Microseconds of one call over several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// The middle round.
    pub median_us: f64,
    /// The fastest round.
    pub min_us: f64,
    /// The slowest round.
    pub max_us: f64,
    /// A quarter of the rounds is faster.
    pub q1_us: f64,
    /// A quarter of the rounds is slower.
    pub q3_us: f64,
    /// Number of rounds.
    pub rounds: usize,
}

impl Timing {
    /// Sums up the rounds.
    ///
    /// # Panics
    ///
    /// When there are none.
    pub fn of(mut rounds_us: Vec<f64>) -> Self {
        rounds_us.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let at = q * (rounds_us.len() - 1) as f64;
            let (low, high) = (
                rounds_us[at.floor() as usize],
                rounds_us[at.ceil() as usize],
            );
            low + (high - low) * at.fract()
        };
        Self {
            median_us: quantile(0.5),
            min_us: quantile(0.0),
            max_us: quantile(1.0),
            q1_us: quantile(0.25),
            q3_us: quantile(0.75),
            rounds: rounds_us.len(),
        }
    }
}

/// A call, numbered: how often all inputs have been gone through before, and which input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Grows by one when the inputs start again.
    pub pass: usize,
    /// The input, less than the rotation.
    pub input: usize,
}

/// A timing, and what the last timed calls gave: it is to be checked.
pub(crate) struct Timed<T> {
    pub timing: Timing,
    pub outputs: Vec<(Call, T)>,
}

/// How long a measurement takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    pub rounds: usize,
    /// A round is long against the clock and the host's part in it.
    pub round: Duration,
}

impl Stopwatch {
    /// Calls of a round, when one takes `seconds`.
    fn calls(&self, seconds: f64, most: usize) -> usize {
        let calls = (self.round.as_secs_f64() / seconds.max(1e-9)).ceil();
        calls.clamp(1.0, most as f64) as usize
    }

    /// Times calls that the host issues one by one, over `rotation` inputs in turn.
    ///
    /// At most `held` outputs are alive at once.
    pub(crate) fn plain<T>(
        &self,
        device: &Device,
        rotation: usize,
        held: usize,
        mut call: impl FnMut(Call) -> T,
    ) -> Result<Timed<T>, BenchError> {
        let mut next = 0;
        let mut round = |n: usize| -> Result<(f64, Vec<(Call, T)>), BenchError> {
            // A lazy backend skips what is dropped before it is done.
            let mut outputs = Vec::with_capacity(n);
            let start = Instant::now();
            for _ in 0..n {
                let number = Call {
                    pass: next / rotation,
                    input: next % rotation,
                };
                outputs.push((number, call(number)));
                next += 1;
            }
            device.sync()?;
            Ok((start.elapsed().as_secs_f64(), outputs))
        };
        let held = held.max(1);
        // Compiles kernels; then every input has been touched.
        let _ = round(1)?;
        let _ = round(rotation.min(held))?;
        let n = 3.min(held);
        let n = self.calls(round(n)?.0 / n as f64, held);
        let mut last = Vec::new();
        let mut times = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            let (seconds, outputs) = round(n)?;
            times.push(seconds * 1e6 / n as f64);
            last = outputs;
        }
        last.drain(..last.len().saturating_sub(rotation));
        Ok(Timed {
            timing: Timing::of(times),
            outputs: last,
        })
    }

    /// Times replays of one recording of a call per input; nothing where the device has no
    /// hardware graphs.
    ///
    /// Recording begins with some passes that only warm up. The last pass is what replays compute:
    /// a call that depends on its pass shows whether they do.
    pub(crate) fn graph<T: Clone>(
        &self,
        device: &Device,
        rotation: usize,
        mut call: impl FnMut(Call) -> T,
    ) -> Result<Option<Timed<T>>, BenchError> {
        let mut passes = 0;
        let mut graph = capture(device, || {
            let pass = passes;
            passes += 1;
            // Memory cannot be taken while recording, and what the pass before has freed may not
            // be there yet: the first pass computes everything twice, which leaves room.
            let times = if pass == 0 { 2 } else { 1 };
            (0..times * rotation)
                .map(|n| {
                    let input = n % rotation;
                    let number = Call { pass, input };
                    (number, call(number))
                })
                .collect::<Vec<_>>()
        });
        device.sync()?;
        if !graph.is_hardware() {
            return Ok(None);
        }
        let mut round = |replays: usize| -> Result<f64, BenchError> {
            let start = Instant::now();
            for _ in 0..replays {
                // SAFETY: what the call reads and writes outlives the graph, and nothing else runs
                // on the device.
                black_box(unsafe { graph.replay() });
            }
            device.sync()?;
            Ok(start.elapsed().as_secs_f64())
        };
        round(2)?;
        let replays = self.calls(round(3)? / 3.0, 2000).max(3);
        let mut times = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            times.push(round(replays)? * 1e6 / (replays * rotation) as f64);
        }
        Ok(Some(Timed {
            timing: Timing::of(times),
            outputs: graph.output().clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Stopwatch = Stopwatch {
        rounds: 3,
        round: Duration::from_micros(10),
    };

    #[test]
    fn quartiles_lie_between_the_extremes() {
        let timing = Timing::of(vec![5.0, 1.0, 2.0, 4.0, 3.0]);
        assert_eq!((timing.min_us, timing.max_us), (1.0, 5.0));
        assert_eq!(
            (timing.q1_us, timing.median_us, timing.q3_us),
            (2.0, 3.0, 4.0)
        );
        let timing = Timing::of(vec![1.0, 2.0]);
        assert_eq!((timing.q1_us, timing.median_us), (1.25, 1.5));
        assert_eq!(timing.rounds, 2);
    }

    #[test]
    fn plain_calls_go_through_the_inputs_in_turn() {
        let mut inputs = Vec::new();
        let timed = QUICK.plain(&Device::default(), 3, 2, |call| {
            inputs.push(call.pass * 3 + call.input);
            call.input
        });
        let timed = timed.unwrap();
        assert!(inputs.iter().copied().eq(0..inputs.len()));
        assert!(!timed.outputs.is_empty() && timed.outputs.len() <= 2);
        for (call, output) in timed.outputs {
            assert_eq!(call.input, output);
        }
    }

    #[test]
    fn a_device_without_graphs_times_none() {
        let timed = QUICK.graph(&Device::default(), 2, |call| call.input);
        assert!(timed.unwrap().is_none());
    }
}
