//! Loads a checkpoint and continues a prompt, through Quest.
//!
//! ```text
//! cargo run --release -p quest-burn-examples --example generate [MODEL PROMPT]
//! ```

use std::io::Write;

use burn::tensor::Device;
use quest_burn::QuestConfig;
use quest_burn_models::{generation::GenerationConfig, local::LocalModel};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or(SHIPPED.into());
    let prompt = args
        .next()
        .unwrap_or("The grass is green. The sky is".into());

    let device = Device::default();
    let policy = QuestConfig::kv_group().with_token_budget(256);
    let model = LocalModel::open(path)?.policy(policy).load(&device)?;
    let mut session = model.session()?;
    print!("{prompt}");
    for text in session.generate(&prompt, GenerationConfig::new().with_max_new_tokens(32))? {
        print!("{}", text?);
        std::io::stdout().flush()?;
    }
    let rate = session.statistics().timings.decode_tokens_per_s();
    println!("\n{:.0} tokens per second", rate.unwrap_or_default());
    Ok(())
}
