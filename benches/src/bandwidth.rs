//! What the memory of a device gives: the ceiling of everything that is bound by it.

use burn::tensor::{DType, Tensor};

use crate::{
    BenchError, Launch, Record, Rows, Target,
    layer::normal,
    read,
    record::Kind,
    timing::{Call, Stopwatch, Timed},
};

/// Bytes of all buffers together: many times a last-level cache.
const GPU_BYTES: u64 = 2 << 30;
const CPU_BYTES: u64 = 512 << 20;
/// Elements of a row. A core of a CPU sums up rows; units of a GPU sum up columns, so that neighbours
/// read neighbours.
const GPU_ROW: usize = 1 << 18;
const CPU_ROW: usize = 1 << 15;
/// Buffers in turn. A backend that fuses operations may read a buffer once for several of them, and
/// that would not be the copies that are counted.
const BUFFERS: usize = 4;

/// Measures a device copy and a read-only reduction, adds both to the rows and lets later rows
/// be compared with the copy. Both are tensor operations of Burn, as whatever is timed here is.
///
/// # Errors
///
/// When the device fails or does not sum up what is there.
pub(crate) fn measure(
    target: &Target,
    stopwatch: &Stopwatch,
    limit: u64,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let device = target.device();
    let is_gpu = target.is_gpu();
    let bytes = if is_gpu { GPU_BYTES } else { CPU_BYTES };
    let bytes = bytes.min(limit / 3) as usize / BUFFERS;
    let (row, summed) = if is_gpu { (GPU_ROW, 0) } else { (CPU_ROW, 1) };
    let n_rows = (bytes / size_of::<f32>() / row).max(1);
    let elements = n_rows * row;
    let bytes = (elements * size_of::<f32>()) as u64;
    let buffer = |_| normal([n_rows, row], device, DType::F32);
    let buffers = (0..BUFFERS).map(buffer).collect::<Vec<Tensor<2>>>();
    let total = |sums: Tensor<2>| -> Result<f64, BenchError> {
        Ok(read::floats(sums)?.into_iter().map(f64::from).sum())
    };
    let before = total(buffers[0].clone().sum_dim(summed))?;

    // Adding a number reads and writes each element once: from one buffer to another on a GPU; in
    // place on a CPU, where another buffer would cost the page faults of its memory.
    let mut sources = buffers.iter().cloned().map(Some).collect::<Vec<_>>();
    let mut calls = 0;
    let copy = best(stopwatch, target, |call| {
        let source = &mut sources[call.input];
        if is_gpu {
            return source.clone().map(|source| source.add_scalar(1.0));
        }
        calls += u32::from(call.input == 0);
        *source = source.take().map(|source| source.add_scalar(1.0));
        None
    })?;
    let (launch, timed) = copy;
    let (added, copied) = match timed.outputs.first() {
        Some((call, Some(copied))) => (1, (call.input, copied.clone())),
        _ => (calls, (0, sources[0].take().expect("it is put back"))),
    };
    let expected = total(buffers[copied.0].clone().sum_dim(summed))?;
    let expected = expected + f64::from(added) * elements as f64;
    check("copy", total(copied.1.sum_dim(summed))?, expected, elements)?;
    let copy_gb_per_s = 2.0 * bytes as f64 / timed.timing.median_us / 1e3;
    rows.set_copy_bandwidth(copy_gb_per_s);
    rows.push(record("copy", launch, 2 * bytes, timed))?;

    let read = best(stopwatch, target, |call| {
        buffers[call.input].clone().sum_dim(summed)
    })?;
    let (launch, timed) = read;
    let (call, sums) = timed.outputs[0].clone();
    let expected = match call.input {
        0 => before,
        other => total(buffers[other].clone().sum_dim(summed))?,
    };
    check("read", total(sums)?, expected, elements)?;
    rows.push(record("read", launch, bytes, timed))
}

/// In a graph where there are any, else plainly.
fn best<T: Clone>(
    stopwatch: &Stopwatch,
    target: &Target,
    mut call: impl FnMut(Call) -> T,
) -> Result<(Launch, Timed<T>), BenchError> {
    let device = target.device();
    if target.is_gpu()
        && let Some(timed) = stopwatch.graph(device, BUFFERS, &mut call)?
    {
        return Ok((Launch::Graph, timed));
    }
    let timed = stopwatch.plain(device, BUFFERS, BUFFERS, call)?;
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
fn check(operation: &str, found: f64, expected: f64, elements: usize) -> Result<(), BenchError> {
    if (found - expected).abs() <= 1e-3 * elements as f64 {
        return Ok(());
    }
    Err(BenchError::Wrong {
        operation: operation.into(),
        expected: format!("elements that add up to {expected}"),
        found: found.to_string(),
    })
}
