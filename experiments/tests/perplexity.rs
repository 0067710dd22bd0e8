//! Perplexity against position, on a small random model and on a golden checkpoint.

mod common;

use common::{run_info, subject, subject_of};
use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_experiments::{
    ExperimentError,
    budget::Budget,
    perplexity::{self, PerplexityConfig, PerplexityRow},
    results::Journal,
};
use quest_burn_models::{
    generation::{GenerateError, LikelihoodMode},
    local::LocalModel,
};
use quest_burn_tests::fixtures;

fn config() -> PerplexityConfig {
    PerplexityConfig {
        policies: PolicyKind::ALL.to_vec(),
        budgets: vec![Budget::Tokens(32), "1/1".parse().unwrap()],
        prefill: 100,
        window: 25,
        prefill_chunk: 64,
        quest: QuestConfig::kv_group().with_dense_layers(1),
        page_size: 8,
    }
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (i * i + 7 * i) % 250).collect()
}

fn run(subject: &LocalModel, config: &PerplexityConfig, ids: &[u32]) -> Vec<PerplexityRow> {
    let mut journal = Journal::in_memory();
    perplexity::run(subject, config, ids, &mut journal, &mut |_| ()).unwrap();
    journal.rows().to_vec()
}

#[test]
fn every_policy_has_a_curve_and_those_that_read_everything_have_the_dense_one() {
    let (subject, ids) = (subject(), ids(160));
    let rows = run(&subject, &config(), &ids);
    assert_eq!(rows.len(), 1 + 2 * (PolicyKind::ALL.len() - 1));
    let dense = &rows[0];
    assert_eq!((dense.policy, dense.tokens), (PolicyKind::Dense, 60));
    let positions = dense.points.iter().map(|point| point.position);
    assert_eq!(positions.collect::<Vec<_>>(), [125, 150, 160]);
    assert_eq!(dense.points[2].running, dense.perplexity);
    for row in &rows[1..] {
        match row.asked_budget {
            Some(Budget::Tokens(32)) => {
                assert_ne!(row.points, dense.points, "{}", row.policy);
                assert_eq!(row.budget, 32);
            }
            _ => {
                assert_eq!(row.points, dense.points, "{}", row.policy);
                assert_eq!(row.budget, 160);
            }
        }
    }
}

#[test]
fn the_dense_curve_is_that_of_the_likelihoods() {
    let (subject, ids) = (subject(), ids(160));
    let config = PerplexityConfig {
        policies: vec![PolicyKind::Dense],
        ..config()
    };
    let row = &run(&subject, &config, &ids)[0];
    let mut session = subject.session_for(ids.len()).unwrap();
    let mode = LikelihoodMode::Decode {
        prefill: 100,
        chunk: 512,
    };
    let nll = session.likelihoods(&ids, mode, &mut |_| ());
    let mean = perplexity::mean(&nll.unwrap());
    assert!((row.mean_nll - mean).abs() < 1e-5 * mean, "{mean} {row:?}");
}

#[test]
fn a_text_can_be_decoded_from_its_first_token_on() {
    let config = PerplexityConfig {
        policies: vec![PolicyKind::Dense, PolicyKind::QUEST],
        prefill: 1,
        ..config()
    };
    let rows = run(&subject(), &config, &ids(60));
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.tokens == 59));
    assert_ne!(rows[1].mean_nll, rows[0].mean_nll);
}

#[test]
fn rows_that_are_there_are_not_computed_again() {
    let (subject, ids) = (subject(), ids(130));
    let config = config();
    let all = run(&subject, &config, &ids);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let info = run_info(&subject, "perplexity");
    let open = || Journal::open(Some(&path), &info).unwrap();
    let mut journal = open();
    for row in &all[..3] {
        // A recomputed row has another number of tokens.
        let marked = PerplexityRow {
            tokens: 7,
            ..row.clone()
        };
        journal.push(marked).unwrap();
    }
    drop(journal);
    let mut journal = open();
    let mut last = None;
    perplexity::run(&subject, &config, &ids, &mut journal, &mut |progress| {
        last = Some(progress);
    })
    .unwrap();
    let last = last.unwrap();
    assert_eq!(last.done, last.total);
    let tokens = journal.rows().iter().map(|row| row.tokens);
    assert_eq!(tokens.filter(|&tokens| tokens == 7).count(), 3);
    assert_eq!(journal.rows()[3..], all[3..]);
    drop(journal);
    assert_eq!(
        open().rows()[3..],
        all[3..],
        "as they come back from a file"
    );
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let subject = subject();
    let refused = |change: fn(&mut PerplexityConfig), tokens: usize| {
        let mut config = config();
        change(&mut config);
        let mut journal = Journal::in_memory();
        let result = perplexity::run(&subject, &config, &ids(tokens), &mut journal, &mut |_| ());
        assert!(journal.rows().is_empty());
        result.unwrap_err()
    };
    let error = refused(|_| (), 100);
    assert!(matches!(
        error,
        ExperimentError::Generate(GenerateError::Prefill { prefill: 100, .. })
    ));
    let error = refused(|_| (), subject.config().max_positions + 1);
    assert!(matches!(error, ExperimentError::TooLong { .. }));
    let error = refused(|config| config.policies.clear(), 160);
    assert_eq!(error.to_string(), "policies: expected at least 1, found 0");
    let error = refused(|config| config.window = 0, 160);
    assert_eq!(error.to_string(), "window: expected at least 1, found 0");
    let error = refused(|config| config.budgets = vec![Budget::Tokens(7)], 160);
    assert!(error.to_string().contains("found 7"), "{error}");
}

#[test]
fn perplexities_of_a_golden_checkpoint_are_those_of_transformers() {
    let fixtures = fixtures::all();
    let Some(fixture) = fixtures.iter().find(|f| f.name == "stories260K") else {
        return;
    };
    let subject = subject_of(&fixture.dir);
    let golden = &fixture.golden;
    let lists = golden.quest.iter();
    let lists = lists.filter(|(name, _)| name.starts_with("quest_kv_group_max_"));
    let mut compared = 0;
    for (name, nll) in lists {
        let quest = golden.quest_config(name);
        let config = PerplexityConfig {
            policies: vec![PolicyKind::Dense, PolicyKind::QUEST],
            budgets: vec![Budget::Tokens(quest.token_budget)],
            prefill: golden.prefill,
            window: 64,
            prefill_chunk: 512,
            quest,
            page_size: golden.page_size,
        };
        let rows = run(&subject, &config, &golden.ids);
        let mean = |nll: &[f64]| nll.iter().sum::<f64>() / nll.len() as f64;
        let dense = mean(&golden.dense_nll[golden.prefill - 1..]);
        assert!((rows[0].mean_nll - dense).abs() < 1e-4, "{dense}");
        let expected = mean(nll);
        assert!((rows[1].mean_nll - expected).abs() < 2e-3, "{name}");
        compared += 1;
    }
    assert!(compared > 0, "{:?}", golden.quest.keys());
}
