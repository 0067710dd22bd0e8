//! RULER's tasks on a tokenizer of bytes and a small random model.

mod common;

use std::fs;

use common::{run_info, subject};
use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_experiments::{
    Comparison,
    results::Journal,
    ruler::{self, Document, Haystack, RulerConfig, RulerOutcome, RulerTask, rows},
};
use quest_burn_models::local::LocalModel;

fn config() -> RulerConfig {
    let document = |n: usize| Document {
        context: format!("The lamp of house {n} is {n}{n}."),
        question: format!("What is the lamp of house {n}?"),
        answers: vec![format!("{n}{n}")],
    };
    RulerConfig {
        comparison: Comparison {
            lengths: vec![1400, 1600],
            budgets: vec!["1/8".parse().unwrap()],
            policies: vec![PolicyKind::Dense, PolicyKind::QUEST],
            prefill_chunk: 512,
            quest: QuestConfig::kv_group().with_dense_layers(1),
            page_size: 8,
        },
        tasks: vec![
            RulerTask::NeedleSingle,
            RulerTask::NeedleMultiQuery,
            RulerTask::VariableTracking,
            RulerTask::FrequentWords,
            RulerTask::Questions,
        ],
        depths: 2,
        trials: 1,
        answer_tokens: Some(4),
        haystack: Haystack::noise(),
        documents: (0..40).map(document).collect(),
        seed: 3,
    }
}

fn run(subject: &LocalModel, config: &RulerConfig) -> Vec<RulerOutcome> {
    let mut journal = Journal::in_memory();
    ruler::run(subject, config, &mut journal, &mut |_| ()).unwrap();
    journal.rows().to_vec()
}

#[test]
fn every_task_is_asked_at_its_depths_and_prompts_fill_the_length() {
    let subject = subject();
    let config = config();
    let outcomes = run(&subject, &config);
    // Two needle tasks at two depths and three without, two lengths, two contenders.
    assert_eq!(outcomes.len(), (2 * 2 + 3) * 2 * 2);
    for outcome in &outcomes {
        assert_eq!(outcome.depth.is_some(), outcome.task.has_depth());
        let room = outcome.length - 4;
        assert!(outcome.prompt_tokens <= room);
        // No sentence, word or document is longer than 50 bytes.
        assert!(room - outcome.prompt_tokens < 50, "{}", outcome.task);
        assert!((0.0..=1.0).contains(&outcome.score));
    }
    let rows = rows(&config, &outcomes);
    assert_eq!(rows.len(), 5 * 2 * 2);
    let trials = rows.iter().map(|row| row.trials).sum::<usize>();
    assert_eq!(trials, outcomes.len());
}

#[test]
fn policies_answer_together_as_they_answer_alone() {
    let subject = subject();
    let mut config = config();
    config.comparison.lengths = vec![1400];
    let together = run(&subject, &config);
    config.comparison.policies = vec![PolicyKind::QUEST];
    config.tasks.reverse();
    for alone in run(&subject, &config) {
        assert!(together.contains(&alone), "{alone:?}");
    }
}

#[test]
fn a_run_that_was_cut_ends_with_the_same_results() {
    let subject = subject();
    let mut config = config();
    config.comparison.lengths = vec![1400];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let info = run_info(&subject, "ruler");
    let run = || {
        let mut journal = Journal::<RulerOutcome>::open(Some(&path), &info).unwrap();
        ruler::run(&subject, &config, &mut journal, &mut |_| ()).unwrap();
        journal.rows().to_vec()
    };
    let whole = run();
    let text = fs::read_to_string(&path).unwrap();
    let cut = text.lines().take(6).map(|line| line.to_owned() + "\n");
    fs::write(&path, cut.collect::<String>()).unwrap();
    assert_eq!(run(), whole);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let subject = subject();
    let refused = |change: fn(&mut RulerConfig), message: &str| {
        let mut config = config();
        change(&mut config);
        let error = config.check(subject.config(), subject.tokenizer());
        let error = error.unwrap_err();
        assert!(error.is_bad_request());
        assert!(error.to_string().contains(message), "{error}");
    };
    refused(|c| c.tasks.clear(), "tasks: expected at least 1");
    refused(|c| c.depths = 0, "depths: expected at least 1");
    refused(
        |c| c.documents.clear(),
        "documents: expected a file of documents",
    );
    refused(
        |c| c.comparison.lengths.push(200),
        "length: expected at least",
    );
    refused(
        |c| c.comparison.lengths.push(9999),
        "the model is made for at most 2048",
    );
    refused(
        |c| c.tasks = vec![RulerTask::CommonWords],
        "length: expected at least",
    );
}
