//! LongBench on files that the tests write, and a small random model.

mod common;

use std::{fs, path::Path};

use common::{run_info, subject};
use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_experiments::{
    ExperimentError,
    budget::Budget,
    longbench::{self, LongBenchConfig, Prediction, Prompt, Task, TaskData, rows},
    results::Journal,
};
use quest_burn_models::local::LocalModel;
use serde_json::json;

/// Writes records whose contexts are that many words long.
fn write(dir: &Path, task: Task, words: &[usize], answers: &[Vec<String>]) {
    let records = words.iter().enumerate().map(|(i, &words)| {
        let context = (0..words).map(|word| format!("w{}", word * (i + 3) % 97));
        let record = json!({
            "input": format!("What is w{i}?"),
            "context": context.collect::<Vec<_>>().join(" "),
            "answers": answers.get(i).cloned().unwrap_or(vec!["w1".to_owned()]),
            "length": words,
            "dataset": task.name(),
            "language": "en",
            "all_classes": null,
            "_id": format!("{task}-{i}"),
        });
        format!("{record}\n")
    });
    let file = dir.join(format!("{task}.jsonl"));
    fs::write(file, records.collect::<String>()).unwrap();
}

fn read(dir: &Path, tasks: &[Task]) -> Vec<TaskData> {
    let read = |&task| TaskData::read(dir, task, None).unwrap();
    tasks.iter().map(read).collect()
}

fn config() -> LongBenchConfig {
    LongBenchConfig {
        policies: PolicyKind::ALL.to_vec(),
        budgets: vec![Budget::Tokens(32), "1/1".parse().unwrap()],
        context: 1000,
        prefill_chunk: 256,
        quest: QuestConfig::kv_group().with_dense_layers(1),
        page_size: 8,
    }
}

fn run(subject: &LocalModel, config: &LongBenchConfig, data: &[TaskData]) -> Vec<Prediction> {
    let mut journal = Journal::in_memory();
    longbench::run(subject, config, data, &mut journal, &mut |_| ()).unwrap();
    journal.rows().to_vec()
}

#[test]
fn every_policy_answers_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = [Task::HotpotQa, Task::TriviaQa];
    for task in tasks {
        write(dir.path(), task, &[30, 60], &[]);
    }
    let (subject, config) = (subject(), config());
    let data = read(dir.path(), &tasks);
    let predictions = run(&subject, &config, &data);
    let contenders = 1 + 2 * (PolicyKind::ALL.len() - 1);
    assert_eq!(predictions.len(), 2 * 2 * contenders);
    for of_record in predictions.chunks(contenders) {
        let dense = &of_record[0];
        assert_eq!((dense.policy, dense.cut_tokens), (PolicyKind::Dense, 0));
        assert_eq!(dense.budget, dense.prompt_tokens);
        let question = Prompt::new(
            dense.task,
            &data.iter().find(|d| d.task == dense.task).unwrap().records[0],
        );
        assert_eq!(dense.decoded_tokens, question.decoded.len(), "bytes");
        let mut differs = false;
        for other in &of_record[1..] {
            assert_eq!((&other.id, other.task), (&dense.id, dense.task));
            match other.asked_budget {
                Some(Budget::Tokens(32)) => differs |= other.answer != dense.answer,
                _ => assert!(
                    other.budget + 8 > dense.prompt_tokens,
                    "a share is of the prompt"
                ),
            }
        }
        assert!(differs, "nobody answers otherwise with 32 tokens");
    }
    let rows = rows(&config, &data, &predictions);
    assert_eq!(rows.len(), 2 * contenders);
    assert!(rows.iter().all(|row| (row.records, row.cut) == (2, 0)));
    assert_eq!((rows[1].policy, rows[1].budget), (PolicyKind::QUEST, 32));
}

#[test]
fn a_budget_that_covers_prompt_and_answer_gives_the_dense_answer() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Task::HotpotQa, &[30, 60], &[]);
    let config = LongBenchConfig {
        budgets: vec![Budget::Tokens(1000)],
        ..config()
    };
    let data = read(dir.path(), &[Task::HotpotQa]);
    let predictions = run(&subject(), &config, &data);
    for of_record in predictions.chunks(PolicyKind::ALL.len()) {
        for other in of_record {
            assert_eq!(other.answer, of_record[0].answer, "{}", other.policy);
        }
    }
}

#[test]
fn the_answer_itself_as_reference_scores_100() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = [Task::HotpotQa, Task::GovReport];
    for task in tasks {
        write(dir.path(), task, &[20], &[]);
    }
    let subject = subject();
    let config = LongBenchConfig {
        policies: vec![PolicyKind::Dense],
        ..config()
    };
    let first = run(&subject, &config, &read(dir.path(), &tasks));
    for prediction in &first {
        let answers = vec!["other".to_owned(), prediction.answer.clone()];
        write(dir.path(), prediction.task, &[20], &[answers]);
    }
    let data = read(dir.path(), &tasks);
    let second = run(&subject, &config, &data);
    for row in rows(&config, &data, &second) {
        assert_eq!(row.score, 100.0, "{first:?}");
    }
}

#[test]
fn long_prompts_lose_their_middle_and_keep_the_question() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Task::HotpotQa, &[30, 2000], &[]);
    let config = LongBenchConfig {
        policies: vec![PolicyKind::Dense],
        ..config()
    };
    let data = read(dir.path(), &[Task::HotpotQa]);
    let predictions = run(&subject(), &config, &data);
    let (short, long) = (&predictions[0], &predictions[1]);
    assert_eq!(long.prompt_tokens, 1000 - Task::HotpotQa.max_new_tokens());
    assert!(long.cut_tokens > 5000, "{long:?}");
    assert_eq!(
        (short.cut_tokens, short.decoded_tokens),
        (0, long.decoded_tokens)
    );
    let rows = rows(&config, &data, &predictions);
    assert_eq!((rows[0].records, rows[0].cut), (2, 1));
}

#[test]
fn a_run_that_was_cut_goes_on_with_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Task::HotpotQa, &[10, 20, 30], &[]);
    let subject = subject();
    let config = LongBenchConfig {
        policies: vec![PolicyKind::Dense, PolicyKind::QUEST],
        ..config()
    };
    let data = read(dir.path(), &[Task::HotpotQa]);
    let all = run(&subject, &config, &data);
    let path = dir.path().join("rows.jsonl");
    let info = run_info(&subject, "longbench");
    let mut journal = Journal::open(Some(&path), &info).unwrap();
    for row in &all[..4] {
        journal.push(row.clone()).unwrap();
    }
    drop(journal);
    let mut journal = Journal::open(Some(&path), &info).unwrap();
    let mut prefilled = 0;
    longbench::run(&subject, &config, &data, &mut journal, &mut |progress| {
        prefilled += usize::from(progress.prefilled.is_some_and(|(done, all)| done == all));
    })
    .unwrap();
    assert_eq!(journal.rows(), all);
    assert_eq!(prefilled, 2, "the first record has all its answers");
}

#[test]
fn what_does_not_fit_into_the_context_is_refused_with_the_record() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Task::HotpotQa, &[30], &[]);
    let data = read(dir.path(), &[Task::HotpotQa]);
    let subject = subject();
    let refused = |context| {
        let config = LongBenchConfig {
            context,
            ..config()
        };
        let mut journal = Journal::in_memory();
        longbench::run(&subject, &config, &data, &mut journal, &mut |_| ()).unwrap_err()
    };
    let error = refused(80);
    assert_eq!(error.to_string(), "record hotpotqa-0 of hotpotqa");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.starts_with("context: expected at least "),
        "{source}"
    );
    assert!(source.ends_with("found 80"), "{source}");
    assert!(error.is_bad_request());
    let error = refused(subject.config().max_positions + 1);
    assert!(matches!(error, ExperimentError::TooLong { .. }));
}
