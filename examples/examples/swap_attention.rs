//! Swaps the multi-head attention of a Burn model for Quest attention, and decodes with it.
//!
//! ```text
//! cargo run --release -p quest-burn-examples --example swap_attention
//! ```

use burn::{
    nn::attention::{MhaInput, MultiHeadAttentionConfig, generate_autoregressive_mask},
    tensor::{DType, Device, Distribution, Tensor},
};
use quest_burn::{QuestConfig, attention::QuestAttention, cache::PagedKvCacheConfig};

const D_MODEL: usize = 128;
const N_HEADS: usize = 4;
const CONTEXT: usize = 1000;

fn main() -> anyhow::Result<()> {
    let device = Device::default();
    // Stands for a layer that has been trained.
    let trained = MultiHeadAttentionConfig::new(D_MODEL, N_HEADS)
        .with_dropout(0.0)
        .init(&device);

    let quest = QuestAttention::try_from(trained.clone())?;

    // Without a cache the outputs are those of the trained layer under a causal mask.
    let hidden = Tensor::<3>::random(
        [1, CONTEXT, D_MODEL],
        Distribution::Normal(0.0, 1.0),
        &device,
    );
    let mask = generate_autoregressive_mask(1, CONTEXT, &device);
    let before = trained
        .forward(MhaInput::self_attn(hidden.clone()).mask_attn(mask))
        .context;
    let after = quest.forward(hidden.clone());
    let difference: f32 = (before - after).abs().max().try_into_scalar()?;
    println!("largest difference to the trained layer: {difference:.1e}");

    // With a cache the prompt is prefilled once, and each new token reads a few pages of it.
    let policy = QuestConfig::new()
        .with_token_budget(128)
        .with_dense_layers(0)
        .init()?;
    let head_dim = D_MODEL / N_HEADS;
    let mut cache = PagedKvCacheConfig::for_tokens(1, N_HEADS, head_dim, 16, 1, CONTEXT + 8)
        .init(&device, DType::F32)?;
    let step = cache.prefill(&[CONTEXT])?;
    let out = quest.forward_cache(hidden, cache.layer_mut(0), &step, &policy);
    let mut token = out.narrow(1, CONTEXT - 1, 1);
    for _ in 0..8 {
        let step = cache.decode()?;
        token = quest.forward_cache(token, cache.layer_mut(0), &step, &policy);
    }
    println!(
        "decoded 8 tokens from {} tokens, reading {} of {} pages each",
        cache.lengths()[0],
        policy.config().budget_pages(),
        cache.pages()[0].len(),
    );
    Ok(())
}
