//! Whether a timed operation computed what it should have.

use burn::tensor::{DType, Tensor};
use quest_burn::cache::{Int8Rows, KvRows};

use super::{
    Operation,
    problem::{Computed, Problem},
};
use crate::{BenchError, host, read, timing::Call};

/// Checks the outputs of a timing: all must be numbers, the first and the last must equal an
/// untimed computation, for one head also one on the host. Gives the largest deviation.
pub(super) fn outputs(
    problem: &mut Problem,
    operation: Operation,
    tokens: usize,
    rotation: usize,
    outputs: Vec<(Call, Computed)>,
) -> Result<f64, BenchError> {
    let last = outputs.len() - 1;
    let mut largest = 0f64;
    for (index, (call, output)) in outputs.into_iter().enumerate() {
        let entry = problem.entry_of(call, rotation);
        let is_compared = index == 0 || index == last;
        let error = match output {
            // Each call writes the same place of its cache: only the last ones are there to see.
            Computed::Appended if index == last => appended(problem, entry)?,
            Computed::Appended => 0.0,
            Computed::Pages(ids) => {
                let found = read::ints(ids)?;
                if is_compared {
                    pages(problem, entry, tokens, &found)?;
                }
                0.0
            }
            Computed::Float(tensor) => {
                let found = defined(problem, operation, tensor)?;
                if let Some(at) = found.iter().position(|value| !value.is_finite()) {
                    let found = format!("{} at {at}", found[at]);
                    return Err(wrong(operation, "numbers", found));
                }
                match is_compared {
                    true => floats(problem, operation, entry, tokens, &found)?,
                    false => 0.0,
                }
            }
        };
        largest = largest.max(error);
    }
    Ok(largest)
}

fn wrong(operation: Operation, expected: impl ToString, found: impl ToString) -> BenchError {
    BenchError::Wrong {
        operation: operation.name(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

/// How far results in this element type may be from exact ones, over their size.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 4e-3,
        DType::BF16 => 3e-2,
        _ => 1e-4,
    }
}

/// `|found - expected| / |expected|` of whole rows; infinite where something is not a number.
fn distance<T: Copy + Into<f64>>(found: &[f32], expected: &[T]) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (&found, &expected) in found.iter().zip(expected) {
        let expected = expected.into();
        difference += (f64::from(found) - expected).powi(2);
        size += expected.powi(2);
    }
    let distance = (difference / size).sqrt();
    match found.len() == expected.len() && distance.is_finite() {
        true => distance,
        false => f64::INFINITY,
    }
}

fn floats(
    problem: &mut Problem,
    operation: Operation,
    entry: usize,
    tokens: usize,
    found: &[f32],
) -> Result<f64, BenchError> {
    let shape = problem.shape;
    // The whole attention is compared with its three parts, each of which is compared with the
    // host; every other operation with itself.
    let reference = match operation {
        Operation::TopKAttention => Operation::ThreeOperations,
        other => other,
    };
    let Computed::Float(expected) = problem.compute(reference, entry, tokens) else {
        unreachable!("these operations give scores or attention");
    };
    let expected = defined(problem, operation, expected)?;
    let (row, tolerance) = match operation {
        Operation::PageScores => (shape.n_pages(), 1e-4),
        _ => (shape.head_dim, tolerance(shape.dtype)),
    };
    let distances = found.chunks(row).zip(expected.chunks(row));
    let mut distances = distances
        .map(|(found, expected)| distance(found, expected))
        .collect::<Vec<_>>();
    distances.sort_by(f64::total_cmp);
    // Rounding may turn a near tie of two pages the other way: another page of random tokens moves
    // a head's result, and few heads are concerned.
    let allowed = match operation {
        Operation::TopKAttention => distances.len().div_ceil(8).max(group(problem)),
        _ => 0,
    };
    let strict = distances.len().saturating_sub(allowed).max(1);
    let (largest, max) = (distances[strict - 1], distances[distances.len() - 1]);
    if largest > tolerance || max > 1.0 {
        return Err(wrong(
            operation,
            format!("the untimed result within {tolerance:.0e}"),
            format!("a deviation of {largest:.2e}, at most {max:.2e}"),
        ));
    }

    let on_host = match operation {
        Operation::PageScores => scores_on_host(problem, entry)?,
        Operation::DenseAttention => attention_on_host(problem, entry, None)?,
        Operation::PagedAttention => {
            let pages = first_list(problem, entry, tokens)?;
            attention_on_host(problem, entry, Some(&pages))?
        }
        Operation::ThreeOperations | Operation::TopKAttention => {
            three_on_host(problem, entry, tokens)?;
            return Ok(largest);
        }
        _ => return Ok(largest),
    };
    let of_host = distance(&found[..on_host.len()], &on_host);
    if of_host > tolerance {
        return Err(wrong(
            operation,
            format!("the host's result for the first head within {tolerance:.0e}"),
            format!("a deviation of {of_host:.2e}"),
        ));
    }
    Ok(largest.max(of_host))
}

/// The numbers of a result, with zeros in place of the scores past a sequence's pages, which are undefined.
fn defined(
    problem: &Problem,
    operation: Operation,
    result: Tensor<3>,
) -> Result<Vec<f32>, BenchError> {
    let mut found = read::floats(result)?;
    if operation == Operation::PageScores {
        let lists = found.chunks_mut(problem.shape.n_pages());
        for (list, scores) in lists.enumerate() {
            scores[pages_of_list(problem, list)..].fill(0.0);
        }
    }
    Ok(found)
}

/// Pages of the sequence that a list is of.
fn pages_of_list(problem: &Problem, list: usize) -> usize {
    problem.step.pages(list / problem.shape.heads.kv).len()
}

fn group(problem: &Problem) -> usize {
    problem.shape.heads.query / problem.shape.heads.kv
}

/// The parts that the whole is compared with.
fn three_on_host(problem: &mut Problem, entry: usize, tokens: usize) -> Result<(), BenchError> {
    for part in [
        Operation::PageScores,
        Operation::TopPages,
        Operation::PagedAttention,
    ] {
        match problem.compute(part, entry, tokens) {
            Computed::Float(tensor) => {
                let found = defined(problem, part, tensor)?;
                floats(problem, part, entry, tokens, &found)?;
            }
            Computed::Pages(ids) => pages(problem, entry, tokens, &read::ints(ids)?)?,
            Computed::Appended => unreachable!("appending is no part of it"),
        }
    }
    Ok(())
}

/// The page list of the first head.
fn first_list(problem: &mut Problem, entry: usize, tokens: usize) -> Result<Vec<i32>, BenchError> {
    let Computed::Pages(ids) = problem.compute(Operation::TopPages, entry, tokens) else {
        unreachable!("this operation gives pages");
    };
    let k = ids.dims()[2];
    read::ints(ids.slice([0..1, 0..1, 0..k]))
}

/// Exactly the pages that a sort of the scores gives.
fn pages(problem: &Problem, entry: usize, tokens: usize, found: &[i32]) -> Result<(), BenchError> {
    let shape = problem.shape;
    let k = tokens / shape.page_size;
    let scores = read::floats(problem.entries[entry].scores.clone())?;
    let lists = scores.chunks(shape.n_pages()).zip(found.chunks(k));
    for (list, (scores, found)) in lists.enumerate() {
        let scores = &scores[..pages_of_list(problem, list)];
        let mut expected = host::top_pages(scores, k.min(scores.len()));
        expected.resize(k, -1);
        if found != expected {
            let differ = expected.iter().zip(found).filter(|(e, f)| e != f).count();
            return Err(wrong(
                Operation::TopPages,
                format!("the {k} pages of the highest scores in list {list}"),
                format!("{differ} others"),
            ));
        }
    }
    Ok(())
}

/// Queries of the first KV head of the first sequence.
fn first_queries(problem: &Problem, entry: usize) -> Result<Vec<f32>, BenchError> {
    let queries = problem.entries[entry].query.clone();
    let head_dim = problem.shape.head_dim;
    read::floats(queries.slice([0..1, 0..group(problem), 0..head_dim]))
}

fn scores_on_host(problem: &Problem, entry: usize) -> Result<Vec<f64>, BenchError> {
    let layer = problem.caches.layer(problem.cache_of(entry));
    let digests = match layer.int8_digests() {
        None => read::floats(first_head(problem, layer.digests()))?,
        Some(digests) => {
            let pages = 0..problem.shape.n_pages();
            let words = digests.words().clone().slice([0..1, pages.clone()]);
            let scales = digests.scales().clone().slice([0..1, pages]);
            let (words, scales) = (read::ints(words)?, read::floats(scales)?);
            host::unpacked(
                problem.shape.digest,
                &words,
                &scales,
                problem.shape.head_dim,
            )
        }
    };
    let queries = first_queries(problem, entry)?;
    let (kind, head_dim) = (problem.shape.digest, problem.shape.head_dim);
    host::page_scores(kind, &queries, &digests, head_dim)
}

/// Over all pages, or over some.
fn attention_on_host(
    problem: &Problem,
    entry: usize,
    pages: Option<&[i32]>,
) -> Result<Vec<f64>, BenchError> {
    let layer = problem.caches.layer(problem.cache_of(entry));
    let [_, _, page_size, head_dim] = layer.dims();
    let tokens = problem.shape.context;
    let rows = |pool: &Tensor<4>| -> Result<Vec<f32>, BenchError> {
        let all = read::floats(first_head(problem, pool))?;
        let all = &all[..tokens * head_dim];
        let of_page = all.chunks(page_size * head_dim);
        Ok(match pages {
            None => all.to_vec(),
            Some(pages) => {
                let of_page = of_page.collect::<Vec<_>>();
                let chosen = pages.iter().map(|&page| of_page[page as usize]);
                chosen.collect::<Vec<_>>().concat()
            }
        })
    };
    Ok(host::attention(
        &first_queries(problem, entry)?,
        &rows(&layer.key_rows().widened())?,
        &rows(&layer.value_rows().widened())?,
        head_dim,
        problem.scale(),
    ))
}

/// Rows of the first KV head of the first sequence, whose pages come first in a pool that was
/// filled at once.
fn first_head(problem: &Problem, pool: &Tensor<4>) -> Tensor<4> {
    let pages = problem.step.pages(0);
    assert!(pages.iter().copied().eq(0..pages.len() as u32));
    pool.clone().slice([0..pages.len(), 0..1])
}

/// The entry's token is the newest of its cache, and its page's digest bounds the page's keys or, where
/// it promises no bound, is made of them.
fn appended(problem: &Problem, entry: usize) -> Result<f64, BenchError> {
    let shape = problem.shape;
    let layer = problem.caches.layer(problem.cache_of(entry));
    let row = (shape.context - 1) % shape.page_size;
    let page = *problem.step.pages(0).last().expect("there are tokens") as usize;
    let newest = |pool: &Tensor<4>, rows| {
        read::floats(
            pool.clone()
                .slice([page..page + 1, 0..shape.heads.kv, rows]),
        )
    };
    let entry = &problem.entries[entry];
    for (what, pool, new) in [
        ("keys", layer.key_rows(), &entry.new_keys),
        ("values", layer.value_rows(), &entry.new_values),
    ] {
        let found = newest(&pool.widened(), row..row + 1)?;
        let new = new.clone().slice([0..1]);
        let expected = read::floats(match pool {
            KvRows::Full(_) => new,
            KvRows::Int8(_) => Int8Rows::quantized(new).widened(),
        })?;
        if found != expected {
            let expected = format!("the new {what} in page {page}, row {row}");
            return Err(wrong(Operation::Append, expected, "others"));
        }
    }
    // As digests are: in the dtype of the cache.
    let keys = layer.key_rows().widened().cast(shape.dtype);
    let keys = newest(&keys, 0..row + 1)?;
    let [rows, width] = shape.digest.shape(shape.head_dim);
    let digests = newest(layer.digests(), 0..rows)?;
    let heads = keys.chunks((row + 1) * shape.head_dim);
    let mut largest = 0f64;
    for (keys, found) in heads.zip(digests.chunks(rows * width)) {
        // A bound keeps what timed calls wrote over in the same row: it may be wider than the keys.
        if shape.digest.is_bound() {
            if !bounds(found, keys, shape.head_dim) {
                let expected = format!("a digest that bounds the keys of page {page}");
                return Err(wrong(Operation::Append, expected, "a key outside"));
            }
            continue;
        }
        let expected = host::digest(shape.digest, keys, shape.head_dim)?;
        let deviation = distance(found, &expected);
        if deviation > tolerance(shape.dtype) {
            let expected = format!("the digest of the keys of page {page}");
            let found = format!("one with a deviation of {deviation:.2e}");
            return Err(wrong(Operation::Append, expected, found));
        }
        largest = largest.max(deviation);
    }
    Ok(largest)
}

/// Whether no key lies outside a digest's minimum and maximum.
fn bounds(digest: &[f32], keys: &[f32], channels: usize) -> bool {
    let (low, high) = digest.split_at(channels);
    keys.chunks(channels).all(|key| {
        let mut limits = key.iter().zip(low.iter().zip(high));
        limits.all(|(key, (low, high))| low <= key && key <= high)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_relative_and_nan_is_far() {
        assert_eq!(distance(&[3.0, 4.0], &[3.0, 4.0f64]), 0.0);
        assert!((distance(&[3.3, 4.4], &[3.0, 4.0f64]) - 0.1).abs() < 1e-6);
        assert_eq!(distance(&[f32::NAN, 4.0], &[3.0, 4.0f64]), f64::INFINITY);
        assert_eq!(distance(&[1.0], &[1.0, 2.0f64]), f64::INFINITY);
        assert_eq!(distance(&[0.0], &[0.0f64]), f64::INFINITY);
    }
}
