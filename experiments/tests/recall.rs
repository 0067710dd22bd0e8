//! What policies read of what matters, on a small random model.

mod common;

use std::fs;

use common::{run_info, subject};
use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_experiments::{
    recall::{self, RecallConfig, RecallOutcome, RecallRow},
    results::Journal,
};

const LENGTH: usize = 256;

fn config(budgets: &[&str]) -> RecallConfig {
    RecallConfig {
        steps: 12,
        budgets: budgets
            .iter()
            .map(|budget| budget.parse().unwrap())
            .collect(),
        policies: PolicyKind::ALL.to_vec(),
        prefill_chunk: 128,
        quest: QuestConfig::kv_group().with_dense_layers(1),
        page_size: 8,
    }
}

fn ids() -> Vec<u32> {
    (0..LENGTH as u32)
        .map(|i| 3 + (i * i + 7 * i) % 250)
        .collect()
}

fn run(config: &RecallConfig) -> Vec<RecallRow> {
    let mut journal = Journal::in_memory();
    recall::run(&subject(), config, &ids(), &mut journal, &mut |_| ()).unwrap();
    recall::rows(config, LENGTH, journal.rows())
}

#[test]
fn a_budget_that_covers_the_text_finds_everything() {
    for row in run(&config(&["256"])) {
        assert_eq!((row.of.recall, row.of.mass), (1.0, 1.0), "{}", row.policy);
        assert_eq!(row.of.read, 1.0, "{}", row.policy);
    }
}

#[test]
fn dense_layers_find_everything_and_the_others_what_their_budget_lets_them() {
    let rows = run(&config(&["32", "64"]));
    // A mean and four layers, of dense attention and of each other policy with each budget.
    assert_eq!(rows.len(), (1 + (PolicyKind::ALL.len() - 1) * 2) * 5);
    for row in &rows {
        // RaaS and random eviction keep the prompt, whatever the budget: nearly all of these tokens.
        let keeps_prompt = matches!(row.policy, PolicyKind::Raas(_) | PolicyKind::Random(_));
        let is_dense = row.layer == Some(0) || row.policy == PolicyKind::Dense || keeps_prompt;
        assert_eq!(row.of.read == 1.0, is_dense, "{row:?}");
        assert_eq!(row.of.mass == 1.0, is_dense, "{row:?}");
        assert_eq!(row.recall_by_step.is_some(), row.layer.is_none());
        if !is_dense {
            // Between 244 and 256 tokens are in the cache.
            let most = row.budget as f64 / 244.0;
            assert!(row.of.read > 0.0 && row.of.read <= most, "{row:?}");
        }
    }
    let mean = |policy, budget| {
        let row = rows
            .iter()
            .find(|row| (row.policy, row.budget, row.layer) == (policy, budget, None));
        row.unwrap().of
    };
    for policy in [PolicyKind::QUEST, PolicyKind::ORACLE] {
        assert!(mean(policy, 64).mass > mean(policy, 32).mass);
    }
    // The best choice of pages by their scores has no less of the attention than another one.
    assert!(mean(PolicyKind::ORACLE, 32).recall >= mean(PolicyKind::Streaming, 32).recall);
}

#[test]
fn the_mean_is_that_of_the_layers_that_are_not_dense() {
    let rows = run(&config(&["32"]));
    for rows in rows.chunks(5) {
        let mean = rows[2..].iter().map(|row| row.of.recall).sum::<f64>() / 3.0;
        assert!((rows[0].of.recall - mean).abs() < 2e-6, "{:?}", rows[0]);
        let by_step = rows[0].recall_by_step.as_ref().unwrap();
        assert_eq!(by_step.len(), 12);
        let mean = by_step.iter().sum::<f64>() / 12.0;
        assert!((rows[0].of.recall - mean).abs() < 2e-6, "{:?}", rows[0]);
    }
}

#[test]
fn a_run_that_was_cut_ends_with_the_same_results() {
    let subject = subject();
    let config = config(&["32"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let info = run_info(&subject, "recall");
    let run = || {
        let mut journal = Journal::<RecallOutcome>::open(Some(&path), &info).unwrap();
        recall::run(&subject, &config, &ids(), &mut journal, &mut |_| ()).unwrap();
        recall::rows(&config, LENGTH, journal.rows())
    };
    let whole = run();
    let text = fs::read_to_string(&path).unwrap();
    let half = text.lines().take(3).map(|line| format!("{line}\n"));
    fs::write(&path, half.collect::<String>() + "{\"policy\":").unwrap();
    assert_eq!(run(), whole);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let subject = subject();
    let refused = |change: fn(&mut RecallConfig), message: &str| {
        let mut config = config(&["32"]);
        change(&mut config);
        let error = config.check(subject.config(), LENGTH).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    };
    refused(|c| c.steps = 0, "steps: expected at least 1, found 0");
    refused(
        |c| c.steps = 256,
        "steps: expected fewer than the 256 tokens",
    );
    refused(
        |c| (c.budgets, c.policies) = (Vec::new(), vec![PolicyKind::QUEST]),
        "budgets and policies: expected at least 1",
    );
    refused(|c| c.policies.clear(), "policies: expected at least 1");
    refused(|c| c.quest.dense_layers = 4, "fewer than the 4 layers");
    let error = config(&["32"]).check(subject.config(), 2049).unwrap_err();
    assert!(error.to_string().contains("at most 2048 tokens"), "{error}");
}
