//! Decode attention on the CPU: Burn's own against this crate's, dense and Quest.
//!
//! All read the same keys and values of one layer, in turn within every repetition, so that what
//! else runs on the machine disturbs all alike. Besides them, in the same repetition, a plain sum
//! over a large buffer says how fast memory is. Prints a table, or with `--json` a line per row.
//!
//! ```text
//! cargo run --release -p quest-burn-examples --example cpu_attention [context] [repetitions] [--json]
//! ```

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use burn::tensor::{
    DType, Device, Distribution, Tensor, module::attention, ops::AttentionModuleOptions,
};
use quest_burn::{
    QuestConfig,
    cache::{PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
    policy::{DensePolicy, PagePolicy},
};
use rayon::prelude::*;
use serde_json::json;

const PAGE_SIZE: usize = 16;
const TOKEN_BUDGET: usize = 2048;

/// Query heads, KV heads, channels of a head.
const SHAPES: [(usize, usize, usize); 2] = [(32, 8, 128), (16, 4, 64)];

/// What is timed, in this order within a repetition.
const METHODS: [&str; 4] = ["memory", "burn dense", "dense", "quest"];

fn main() -> anyhow::Result<()> {
    let (flags, numbers): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|a| a.starts_with("--"));
    anyhow::ensure!(
        flags.iter().all(|flag| flag == "--json"),
        "flags: expected only --json, found {flags:?}"
    );
    let is_json = !flags.is_empty();
    let mut numbers = numbers.iter().map(|n| n.parse::<usize>());
    let context = numbers.next().transpose()?.unwrap_or(32768);
    let repetitions = numbers.next().transpose()?.unwrap_or(15);
    anyhow::ensure!(
        context > TOKEN_BUDGET && repetitions > 0,
        "expected a context above the budget of {TOKEN_BUDGET} tokens and at least one repetition, \
         found {context} and {repetitions}"
    );
    if !is_json {
        println!(
            "{context} tokens, budget {TOKEN_BUDGET}, {} threads, {repetitions} repetitions",
            rayon::current_num_threads()
        );
        println!(
            "{:>9} {:>5} {:>10} {:>10} {:>10} {:>8} {:>11} {:>11}",
            "heads", "dtype", "method", "median us", "min us", "GB/s", "x burn med", "x burn min"
        );
    }
    for shape in SHAPES {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            run(shape, dtype, context, repetitions, is_json)?;
        }
    }
    Ok(())
}

fn run(
    (n_heads, n_kv_heads, head_dim): (usize, usize, usize),
    dtype: DType,
    context: usize,
    repetitions: usize,
    is_json: bool,
) -> anyhow::Result<()> {
    let device = Device::flex();
    let normal = |shape: [usize; 4]| {
        Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device).cast(dtype)
    };
    let keys = normal([1, n_kv_heads, context, head_dim]);
    let values = normal([1, n_kv_heads, context, head_dim]);
    let (mut cache, step) = filled_cache(&keys, &values, &device)?;
    let quest = QuestConfig::new()
        .with_token_budget(TOKEN_BUDGET)
        .with_dense_layers(0)
        .init()?;
    let scale = 1.0 / (head_dim as f64).sqrt();
    // 256 MiB, beyond every cache.
    let buffer = vec![1.0_f32; 1 << 26];

    let mut times = METHODS.map(|_| Vec::with_capacity(repetitions));
    for repetition in 0..repetitions + 2 {
        let query = normal([1, n_heads, 1, head_dim]);
        let decoded = query.clone().reshape([1, n_heads, head_dim]);
        let of_policy = |policy: &dyn PagePolicy, cache: &mut PagedKvCache| {
            let query = decoded.clone();
            let layer = cache.layer_mut(0);
            timed(|| drop(policy.attention(query, layer, &step, scale).into_data()))
        };
        let measured = [
            timed(|| {
                black_box(sum(&buffer));
            }),
            timed(|| {
                let (keys, values) = (keys.clone(), values.clone());
                let options = AttentionModuleOptions::default();
                drop(attention(query.clone(), keys, values, None, None, options).into_data());
            }),
            of_policy(&DensePolicy, &mut cache),
            of_policy(&quest, &mut cache),
        ];
        // The first two warm up.
        if repetition >= 2 {
            for (times, time) in times.iter_mut().zip(measured) {
                times.push(time.as_secs_f64() * 1e6);
            }
        }
    }

    let elements = |tokens: usize| (2 * tokens * n_kv_heads * head_dim) as f64;
    let bytes = |elements: f64| elements * dtype.size() as f64;
    let digests = elements(context.div_ceil(PAGE_SIZE));
    let bytes_read = [
        size_of_val(&buffer[..]) as f64,
        bytes(elements(context)),
        bytes(elements(context)),
        bytes(digests + elements(TOKEN_BUDGET)),
    ];
    let [burn_median, burn_min] = summary(&mut times[1]);
    for ((method, times), bytes) in METHODS.iter().zip(&mut times).zip(bytes_read) {
        let [median, min] = summary(times);
        let speed = bytes / median / 1e3;
        let (of_median, of_min) = (burn_median / median, burn_min / min);
        let heads = format!("{n_heads}/{n_kv_heads}x{head_dim}");
        if is_json {
            let row = json!({
                "context": context,
                "token_budget": TOKEN_BUDGET,
                "n_heads": n_heads,
                "n_kv_heads": n_kv_heads,
                "head_dim": head_dim,
                "dtype": format!("{dtype:?}"),
                "method": method,
                "threads": rayon::current_num_threads(),
                "repetitions": repetitions,
                "median_us": median,
                "min_us": min,
                "bytes": bytes,
                "gb_per_s": speed,
            });
            println!("{row}");
        } else {
            println!(
                "{heads:>9} {:>5} {method:>10} {median:>10.0} {min:>10.0} {speed:>8.1} \
                 {of_median:>11.2} {of_min:>11.2}",
                format!("{dtype:?}")
            );
        }
    }
    Ok(())
}

/// The same keys and values in pages.
fn filled_cache(
    keys: &Tensor<4>,
    values: &Tensor<4>,
    device: &Device,
) -> anyhow::Result<(PagedKvCache, Step)> {
    let [_, n_kv_heads, context, head_dim] = keys.dims();
    let config = PagedKvCacheConfig::for_tokens(1, n_kv_heads, head_dim, PAGE_SIZE, 1, context)
        .with_digest(DigestKind::MeanVar);
    let mut cache = config.init(device, keys.dtype())?;
    let step = cache.prefill(&[context - 1])?;
    let part = |rows: &Tensor<4>, tokens: std::ops::Range<usize>| rows.clone().slice_dim(2, tokens);
    let prompt = 0..context - 1;
    let (new_keys, new_values) = (part(keys, prompt.clone()), part(values, prompt));
    ops::append(cache.layer_mut(0), new_keys, new_values, &step);
    let step = cache.decode()?;
    let newest = context - 1..context;
    let (new_keys, new_values) = (part(keys, newest.clone()), part(values, newest));
    ops::append(cache.layer_mut(0), new_keys, new_values, &step);
    Ok((cache, step))
}

/// Reads a buffer on all threads.
fn sum(buffer: &[f32]) -> f32 {
    const LANES: usize = 64;
    let parts = buffer.par_chunks(1 << 16).map(|part| {
        let mut sums = [0.0; LANES];
        for chunk in part.chunks_exact(LANES) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x;
            }
        }
        sums.iter().sum::<f32>()
    });
    parts.sum()
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

/// Median and minimum.
fn summary(times: &mut [f64]) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    [times[times.len() / 2], times[0]]
}
