//! One layer's decode attention: each operation by itself, and all of it.
//!
//! Every operation goes through [`quest_burn::ops`], as in the models: kernels where they run,
//! tensor operations elsewhere.

mod bytes;
mod check;
mod grid;
mod measure;
mod options;
mod problem;

use std::time::Instant;

use options::Operation;
pub(crate) use options::{AttentionOptions, Effort, Preset};

use crate::{BenchError, Rows, Target, bandwidth, memory, record::Kind};
use measure::Measurement;

/// Measures what the options ask for, and prints each result as it comes.
///
/// # Errors
///
/// When an option cannot be served, the device fails, or a timed result is wrong.
pub(crate) fn run(
    options: &AttentionOptions,
    target: &Target,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let begin = Instant::now();
    let mut options = options.resolved()?;
    let dtype = target.dtype("--dtype", options.dtype)?;
    let shapes = grid::shapes(&options, dtype)?;
    let time_limit = options.effort.time_limit()?;
    let limit = memory::limit(target, options.effort.memory_limit);
    let stopwatch = options.effort.stopwatch();
    options.launch = target.launches(&options.launch)?;
    bandwidth::measure(target, &stopwatch, limit, rows)?;
    for (index, shape) in shapes.iter().enumerate() {
        let is_late = time_limit.is_some_and(|limit| begin.elapsed() >= limit);
        let needed = measure::least_bytes(shape);
        let reason = if is_late {
            format!(
                "{} minutes are over",
                options.effort.minutes.unwrap_or_default()
            )
        } else if needed > limit {
            format!("expected at least {needed} bytes of memory, found {limit}")
        } else {
            eprintln!("{} of {}: {shape:?}", index + 1, shapes.len());
            let measurement = Measurement {
                options: &options,
                target,
                stopwatch,
                limit,
            };
            let failed = shape.record(Kind::Failed, "all".into(), None);
            rows.attempt(failed, |rows| measurement.run(shape, rows))?;
            // What the shape took is there for the next one.
            target.device().memory_cleanup();
            continue;
        };
        let mut record = shape.record(Kind::Skipped, "all".into(), None);
        record.reason = Some(reason);
        rows.push(record)?;
    }
    rows.finish()
}
