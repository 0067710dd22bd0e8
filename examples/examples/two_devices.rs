//! The same code on two devices: the CPU and a GPU, where the program is built with a feature such as
//! `vulkan` or `cuda`, or the CPU in two element types.
//!
//! ```text
//! cargo run --release -p quest-burn-examples --example two_devices [--features vulkan]
//! ```

use burn::tensor::{DType, Device};
use quest_burn::QuestConfig;
use quest_burn_models::{generation::GenerationConfig, local::LocalModel};

/// Logits after a prompt, and how a model continues.
struct Answer {
    logits: Vec<f32>,
    ids: Vec<u32>,
}

fn answer(device: &Device, dtype: DType) -> anyhow::Result<Answer> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
    let policy = QuestConfig::kv_group().with_token_budget(128);
    let model = LocalModel::open(path)?
        .policy(policy)
        .dtype(dtype)
        .load(device)?;
    let text = "The grass is green. The sky is blue. The sun is yellow. Here we go. ".repeat(60);
    let mut session = model.session()?;
    session.feed(
        &model
            .tokenizer()
            .expect("the model has one")
            .encode(&text)?,
    )?;
    let logits = session.logits()?;
    let ids = session.generate_ids(&[], GenerationConfig::new().with_max_new_tokens(24))?;
    let ids = ids.collect::<Result<_, _>>()?;
    Ok(Answer { logits, ids })
}

fn main() -> anyhow::Result<()> {
    let cpu = Device::flex();
    let other = Device::default();
    let (other, dtype) = match other == cpu {
        true => (cpu.clone(), DType::F16),
        false => (other, DType::F32),
    };
    let expected = answer(&cpu, DType::F32)?;
    let found = answer(&other, dtype)?;
    let pairs = expected.logits.iter().zip(&found.logits);
    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let equal = expected
        .ids
        .iter()
        .zip(&found.ids)
        .take_while(|(a, b)| a == b);
    println!("{cpu:?} in f32 and {other:?} in {dtype:?}");
    println!("largest difference of logits: {difference:.1e}");
    println!("equal tokens: {} of {}", equal.count(), expected.ids.len());
    anyhow::ensure!(
        difference < 0.5,
        "expected logits within 0.5, found {difference}"
    );
    Ok(())
}
