//! What the memory of a device gives: the ceiling of everything that is bound by it.

use burn::tensor::{DType, Tensor};

use crate::{
    BenchError, Launch, Record, Rows, Target,
    layer::normal,
    read,
    record::Kind,
    timing::{Stopwatch, Timed},
};

/// Bytes of the buffer: many times a last-level cache.
const GPU_BYTES: u64 = 1 << 30;
const CPU_BYTES: u64 = 256 << 20;
/// Elements of a row that is summed up.
const ROW: usize = 1 << 15;
/// Copies that are alive at once.
const HELD: usize = 4;

/// Measures a device copy and a read-only reduction, adds both to the rows and lets later rows
/// be compared with the copy. Both are tensor operations of Burn, as whatever is timed here is.
///
/// # Errors
///
/// When the device fails or does not sum up what is there.
pub fn measure(
    target: &Target,
    stopwatch: &Stopwatch,
    limit: u64,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let device = target.device();
    let bytes = if target.is_gpu() {
        GPU_BYTES
    } else {
        CPU_BYTES
    };
    let bytes = bytes.min(limit / (HELD as u64 + 2));
    let n_rows = (bytes as usize / size_of::<f32>() / ROW).max(1);
    let bytes = (n_rows * ROW * size_of::<f32>()) as u64;
    let source = normal([n_rows, ROW], device, DType::F32);
    let sum = |rows: &Tensor<2>| -> Result<f64, BenchError> {
        let sums = read::floats(rows.clone().sum_dim(1))?;
        Ok(sums.into_iter().map(f64::from).sum())
    };
    let expected = sum(&source)?;

    // Adding a number reads and writes each element once.
    let copy = best(stopwatch, target, || source.clone().add_scalar(1.0))?;
    let elements = (n_rows * ROW) as f64;
    check(
        "copy",
        sum(&copy.1.outputs[0].1)?,
        expected + elements,
        elements,
    )?;
    let copy_gb_per_s = 2.0 * bytes as f64 / copy.1.timing.median_us / 1e3;
    rows.set_copy_bandwidth(copy_gb_per_s);
    rows.push(record("copy", copy.0, 2 * bytes, copy.1))?;

    let read = best(stopwatch, target, || source.clone().sum_dim(1))?;
    let found = read::floats(read.1.outputs[0].1.clone())?;
    let found = found.into_iter().map(f64::from).sum::<f64>();
    check("read", found, expected, elements)?;
    rows.push(record("read", read.0, bytes, read.1))
}

/// In a graph where there are any, else plainly.
fn best<const D: usize>(
    stopwatch: &Stopwatch,
    target: &Target,
    call: impl Fn() -> Tensor<D>,
) -> Result<(Launch, Timed<Tensor<D>>), BenchError> {
    let device = target.device();
    if target.is_gpu()
        && let Some(timed) = stopwatch.graph(device, HELD, |_| call())?
    {
        return Ok((Launch::Graph, timed));
    }
    let timed = stopwatch.plain(device, 1, HELD, |_| call())?;
    Ok((Launch::Plain, timed))
}

fn record<T>(operation: &str, launch: Launch, bytes: u64, timed: Timed<T>) -> Record {
    Record {
        kind: Kind::Bandwidth,
        operation: operation.into(),
        launch: Some(launch),
        dtype: Some("f32".into()),
        bytes: Some(bytes),
        timing: Some(timed.timing),
        ..Record::default()
    }
}

/// Sums of many numbers of size 1 agree to a small part of their number.
fn check(operation: &str, found: f64, expected: f64, elements: f64) -> Result<(), BenchError> {
    if (found - expected).abs() <= 1e-3 * elements {
        return Ok(());
    }
    Err(BenchError::Wrong {
        operation: operation.into(),
        expected: format!("elements that add up to {expected}"),
        found: found.to_string(),
    })
}
