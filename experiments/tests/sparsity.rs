//! Which budget each layer needs, on a small random model.

mod common;

use std::sync::Arc;

use common::{run_info, subject};
use quest_burn::{
    QuestConfig,
    policy::{ObservedPolicy, PagePolicy, PolicyConfig, PolicyKind, Read},
};
use quest_burn_experiments::{
    perplexity::perplexity,
    results::Journal,
    sparsity::{self, LayerPerplexity, OnlyLayer, SparsityConfig, rows},
};
use quest_burn_models::{generation::LikelihoodMode, local::LocalModel, session::Session};

const TOKENS: usize = 160;

fn config() -> SparsityConfig {
    SparsityConfig {
        policies: vec![PolicyKind::QUEST, PolicyKind::ORACLE],
        budgets: vec![8, 16, 32, 64],
        tolerance: 0.5,
        prefill: 100,
        prefill_chunk: 64,
        quest: quest(),
        page_size: 8,
    }
}

/// Two dense layers, which the experiment must not use.
fn quest() -> QuestConfig {
    QuestConfig::kv_group()
}

fn ids() -> Vec<u32> {
    (0..TOKENS as u32)
        .map(|i| 3 + (i * i + 7 * i) % 250)
        .collect()
}

fn run(subject: &LocalModel, config: &SparsityConfig) -> Vec<LayerPerplexity> {
    let mut journal = Journal::in_memory();
    sparsity::run(subject, config, &ids(), &mut journal, &mut |_| ()).unwrap();
    journal.rows().to_vec()
}

/// Scores every id but the first, through the policy.
const DECODED: LikelihoodMode = LikelihoodMode::Decode {
    prefill: 1,
    chunk: 512,
};

/// A session that holds the first tokens of the text.
fn prefilled(subject: &LocalModel, tokens: usize, policy: Arc<dyn PagePolicy>) -> Session {
    let mut session = subject.session_for(TOKENS).unwrap();
    session.set_policy(policy);
    session.feed(&ids()[..tokens]).unwrap();
    session
}

fn policy(kind: PolicyKind, dense_layers: usize, budget: usize) -> PolicyConfig {
    let quest = quest().with_dense_layers(dense_layers);
    PolicyConfig::new(kind).with_quest(quest.with_token_budget(budget))
}

#[test]
fn only_the_layer_that_is_named_is_sparse() {
    let (subject, ids) = (subject(), ids());
    for layer in 0..subject.config().n_layers {
        let quest = policy(PolicyKind::QUEST, 0, 32).init(8).unwrap();
        let observed = ObservedPolicy::new(Box::new(OnlyLayer::new(layer, quest)));
        let observations = observed.observations();
        let mut session = prefilled(&subject, 100, Arc::new(observed));
        session.decode(ids[100]).unwrap();
        let seen = observations.take();
        assert_eq!(seen.len(), subject.config().n_layers);
        for of_layer in seen {
            if of_layer.layer == layer {
                assert!(matches!(of_layer.read, Read::Pages(_)));
                assert!(of_layer.pages_read().iter().all(|&pages| pages == 4));
            } else {
                assert_eq!(of_layer.read, Read::All);
            }
        }
    }
}

#[test]
fn the_last_layer_alone_is_a_policy_with_all_others_dense() {
    let (subject, ids) = (subject(), ids());
    let last = subject.config().n_layers - 1;
    let score = |policy| {
        let mut session = prefilled(&subject, 99, policy);
        session
            .likelihoods(&ids[99..], DECODED, &mut |_| ())
            .unwrap()
    };
    let inner = policy(PolicyKind::QUEST, 0, 16).init(8).unwrap();
    let only = score(Arc::new(OnlyLayer::new(last, inner)));
    let others_dense = score(policy(PolicyKind::QUEST, last, 16).init(8).unwrap().into());
    assert_eq!(only, others_dense);
    let dense = score(policy(PolicyKind::Dense, 0, 16).init(8).unwrap().into());
    assert_ne!(only, dense);
}

#[test]
fn no_budget_below_the_one_that_is_found_keeps_the_perplexity() {
    let subject = subject();
    let config = config();
    let measured = run(&subject, &config);
    let rows = rows(&config, subject.config().n_layers, TOKENS, &measured);
    assert_eq!(rows.len(), 2 * subject.config().n_layers);
    let dense = rows[0].dense_perplexity;
    for row in &rows {
        let tried = |budget: usize| {
            let mut of_row = measured
                .iter()
                .filter(|one| one.policy == row.policy && one.layer == Some(row.layer));
            of_row.find(|one| one.budget == Some(budget))
        };
        for &budget in &config.budgets {
            match tried(budget) {
                Some(one) if Some(budget) == row.budget => {
                    assert!(one.perplexity <= dense + config.tolerance);
                    assert_eq!(one.perplexity, row.perplexity);
                    assert_eq!(row.share, budget as f64 / TOKENS as f64);
                }
                Some(one) => assert!(one.perplexity > dense + config.tolerance),
                None => assert!(row.budget.is_some_and(|found| found < budget)),
            }
        }
    }
    let budgets = rows.iter().map(|row| row.budget).collect::<Vec<_>>();
    assert!(
        budgets.iter().any(|budget| *budget != budgets[0]),
        "the layers need different budgets: {budgets:?}"
    );
}

#[test]
fn a_measured_perplexity_is_that_of_the_sparse_layer() {
    let (subject, ids) = (subject(), ids());
    let measured = run(&subject, &config());
    let one = measured.iter().find(|one| one.layer == Some(2)).unwrap();
    let inner = policy(PolicyKind::QUEST, 0, one.budget.unwrap()).init(8);
    let only = OnlyLayer::new(2, inner.unwrap());
    let mut session = prefilled(&subject, 99, Arc::new(only));
    let nll = session
        .likelihoods(&ids[99..], DECODED, &mut |_| ())
        .unwrap();
    assert!((perplexity(&nll) - one.perplexity).abs() < 1e-6);
}

#[test]
fn a_run_that_was_cut_goes_on_with_what_is_missing() {
    let subject = subject();
    let config = config();
    let all = run(&subject, &config);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let info = run_info(&subject, "sparsity");
    let mut journal = Journal::open(Some(&path), &info).unwrap();
    for row in &all[..all.len() / 2] {
        journal.push(row.clone()).unwrap();
    }
    drop(journal);
    let mut journal = Journal::open(Some(&path), &info).unwrap();
    sparsity::run(&subject, &config, &ids(), &mut journal, &mut |_| ()).unwrap();
    assert_eq!(journal.rows(), all);
    // With everything there, nothing is computed: not even the prompt is read.
    sparsity::run(&subject, &config, &ids(), &mut journal, &mut |progress| {
        assert_eq!(progress.prefilled, None);
    })
    .unwrap();
    assert_eq!(journal.rows(), all);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let subject = subject();
    for (change, message) in [
        (
            (|config| config.policies.push(PolicyKind::Dense)) as fn(&mut SparsityConfig),
            "policies: expected policies that leave something out, found dense",
        ),
        (
            |config| config.policies.clear(),
            "policies: expected at least 1, found 0",
        ),
        (
            |config| config.budgets = vec![16, 64, 32],
            "budgets: expected an ascending list, found 64 before 32",
        ),
        (
            |config| config.tolerance = -0.1,
            "tolerance: expected a finite number of at least 0, found -0.1",
        ),
        (
            |config| config.tolerance = f64::NAN,
            "tolerance: expected a finite number of at least 0, found NaN",
        ),
        (
            |config| config.prefill = TOKENS,
            "prefill: expected from 1 to 159 of 160 tokens, found 160",
        ),
        (|config| config.budgets = vec![7], "found 7"),
    ] {
        let mut config = config();
        change(&mut config);
        let mut journal = Journal::in_memory();
        let result = sparsity::run(&subject, &config, &ids(), &mut journal, &mut |_| ());
        let error = result.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.is_bad_request());
    }
}
