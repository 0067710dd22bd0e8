//! The policies on every device: they read what they claim and no more than their budget, what is
//! evicted stays away, and everything is forgotten where the cache forgets.

mod budgets;
mod forgetting;
mod layers;
mod reading;

use quest_burn::{
    QuestConfig,
    attention::RopeConfig,
    policy::{PolicyConfig, PolicyKind},
};
use quest_burn_tests::{
    devices::{TestDevice, devices},
    session::SessionShape,
};

const PAGE_SIZE: usize = 8;

fn config(kind: PolicyKind, budget: usize) -> PolicyConfig {
    let quest = QuestConfig::new()
        .with_token_budget(budget)
        .with_dense_layers(0);
    PolicyConfig::new(kind)
        .with_quest(quest)
        .with_rope(Some(RopeConfig::new()))
}

fn shape() -> SessionShape {
    SessionShape {
        n_layers: 1,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        page_size: PAGE_SIZE,
        prompts: vec![100, 5, 37, 31],
        room: 40,
    }
}

/// Calls `test` with every policy on every device.
fn for_each_policy(test: impl Fn(PolicyKind, &TestDevice, &str)) {
    for device in devices() {
        for &kind in PolicyKind::ALL {
            test(kind, &device, &format!("{kind} on {device}"));
        }
    }
}
