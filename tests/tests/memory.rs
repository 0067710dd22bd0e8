//! Memory while decoding: the cache is allocated once, and nothing else grows with the steps.
#![cfg(target_os = "linux")]

use burn::tensor::{DType, Device, Distribution, Tensor};
use quest_burn::{
    QuestConfig,
    attention::QuestAttentionConfig,
    cache::PagedKvCacheConfig,
    policy::{DensePolicy, PagePolicy},
};

const D_MODEL: usize = 128;
const N_HEADS: usize = 4;
const HEAD_DIM: usize = D_MODEL / N_HEADS;
const PROMPT: usize = 4096;
const WARM_UP: usize = 100;
const STEPS: usize = 400;

/// Bytes of this process that are in memory.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|field| field.parse().ok())
        .expect("the second field of statm is a number of pages");
    pages * 4096
}

#[test]
fn decoding_takes_no_memory_beyond_the_cache() {
    let device = Device::flex();
    let attention = QuestAttentionConfig::new(D_MODEL, N_HEADS).init(&device);
    let quest = QuestConfig::kv_group()
        .with_token_budget(256)
        .with_dense_layers(0)
        .init()
        .unwrap();
    for policy in [&DensePolicy as &dyn PagePolicy, &quest] {
        let config =
            PagedKvCacheConfig::for_tokens(1, N_HEADS, HEAD_DIM, 16, 1, PROMPT + WARM_UP + STEPS);
        let mut cache = config.init(&device, DType::F32).unwrap();
        let normal = Distribution::Normal(0.0, 1.0);
        let step = cache.prefill(&[PROMPT]).unwrap();
        let rows = || Tensor::random([1, N_HEADS, PROMPT, HEAD_DIM], normal, &device);
        quest_burn::ops::append(cache.layer_mut(0), rows(), rows(), &step);
        let mut after_warm_up = 0;
        for decoded in 0..WARM_UP + STEPS {
            if decoded == WARM_UP {
                after_warm_up = resident_bytes();
            }
            let step = cache.decode().unwrap();
            let hidden = Tensor::random([1, 1, D_MODEL], normal, &device);
            let out = attention.forward_cache(hidden, cache.layer_mut(0), &step, policy);
            out.into_data();
        }
        let grown = resident_bytes().saturating_sub(after_warm_up);
        // One copy of the cache that stayed behind would already be more than this.
        let allowed = config.bytes(DType::F32) / 4;
        assert!(
            grown < allowed,
            "{policy:?}: {grown} bytes grown over {STEPS} steps, allowed {allowed}"
        );
    }
}
