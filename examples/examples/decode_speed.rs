//! One attention layer decodes from a long KV cache: dense against Quest.
//!
//! Both read the same cache through the same code; only the policy differs. Prints microseconds
//! per decoded token (median) for contexts up to the one that is asked for.
//!
//! ```text
//! cargo run --release -p quest-burn-examples --example decode_speed [context] [budget share]
//! ```

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use quest_burn::{
    QuestConfig,
    attention::{QuestAttention, QuestAttentionConfig},
    cache::{PagedKvCache, PagedKvCacheConfig},
    policy::{DensePolicy, PagePolicy},
};

const D_MODEL: usize = 1024;
const N_HEADS: usize = 16;
const N_KV_HEADS: usize = 4;
const HEAD_DIM: usize = D_MODEL / N_HEADS;
const PREFILL_CHUNK: usize = 1024;
const STEPS: usize = 15;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let longest = arguments.next().transpose()?.unwrap_or(16384);
    let share = arguments.next().transpose()?.unwrap_or(16);
    let device = Device::default();
    let attention = QuestAttentionConfig::new(D_MODEL, N_HEADS)
        .with_n_kv_heads(Some(N_KV_HEADS))
        .init(&device);

    println!("{device:?}: {attention}");
    println!(
        "{:>8} {:>12} {:>12} {:>8}",
        "context", "dense us", "quest us", "ratio"
    );
    let mut context = 2048.min(longest);
    while context <= longest {
        // No leading layer stays dense here: there is only one.
        let quest = QuestConfig::new()
            .with_token_budget(context / share)
            .with_dense_layers(0)
            .init()?;
        let mut cache = filled_cache(&attention, context, &device)?;
        let dense_us = median_us(&attention, &mut cache, &DensePolicy, context)?;
        let quest_us = median_us(&attention, &mut cache, &quest, context)?;
        let ratio = dense_us / quest_us;
        println!("{context:>8} {dense_us:>12.0} {quest_us:>12.0} {ratio:>8.2}");
        context *= 2;
    }
    Ok(())
}

fn filled_cache(
    attention: &QuestAttention,
    context: usize,
    device: &Device,
) -> anyhow::Result<PagedKvCache> {
    let config =
        PagedKvCacheConfig::for_tokens(1, N_KV_HEADS, HEAD_DIM, 16, 1, context + STEPS + 1);
    let mut cache = config.init(device, DType::F32)?;
    for first in (0..context).step_by(PREFILL_CHUNK) {
        let tokens = PREFILL_CHUNK.min(context - first);
        let step = cache.prefill(&[tokens])?;
        // Keys and values go straight into the cache: the prompt's attention is not the subject.
        let rows = [1, N_KV_HEADS, tokens, HEAD_DIM];
        let keys = Tensor::random(rows, Distribution::Normal(0.0, 1.0), device);
        let values = Tensor::random(rows, Distribution::Normal(0.0, 1.0), device);
        quest_burn::ops::append(cache.layer_mut(0), keys, values, &step);
    }
    let [_, d_model] = attention.o_proj.weight.dims();
    anyhow::ensure!(d_model == D_MODEL);
    Ok(cache)
}

fn median_us(
    attention: &QuestAttention,
    cache: &mut PagedKvCache,
    policy: &dyn PagePolicy,
    context: usize,
) -> anyhow::Result<f64> {
    let device = cache.layer(0).keys().device();
    let mut times = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let hidden = Tensor::random([1, 1, D_MODEL], Distribution::Normal(0.0, 1.0), &device);
        device.sync()?;
        let start = Instant::now();
        let step = cache.decode()?;
        let out = attention.forward_cache(hidden, cache.layer_mut(0), &step, policy);
        // Reading the result is what ends the work on every backend.
        out.try_into_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    cache.truncate(0, context)?;
    times.sort_by(f64::total_cmp);
    Ok(times[STEPS / 2])
}
