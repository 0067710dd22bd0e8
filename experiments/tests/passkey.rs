//! Passkey prompts on a tokenizer of bytes, and the experiment on a small random model.

mod common;

use std::fs;

use common::{run_info, subject};
use quest_burn::{QuestConfig, policy::PolicyKind};
use quest_burn_experiments::{
    Comparison, ExperimentError,
    passkey::{self, PasskeyConfig, PasskeyOutcome, PasskeyPrompt, rows},
    results::Journal,
};
use quest_burn_models::local::LocalModel;

const TASK: &str = "There is an important info hidden inside";

fn config() -> PasskeyConfig {
    PasskeyConfig {
        comparison: Comparison {
            lengths: vec![512, 640],
            budgets: vec!["1/8".parse().unwrap(), "32".parse().unwrap()],
            policies: PolicyKind::ALL.to_vec(),
            prefill_chunk: 256,
            quest: QuestConfig::kv_group().with_dense_layers(1),
            page_size: 8,
        },
        depths: 2,
        keys: 1,
        trials: 1,
        tail: 40,
        answer_tokens: 4,
        seed: 3,
    }
}

fn run(subject: &LocalModel, config: &PasskeyConfig) -> Vec<PasskeyOutcome> {
    let mut journal = Journal::in_memory();
    passkey::run(subject, config, &mut journal, &mut |_| ()).unwrap();
    journal.rows().to_vec()
}

#[test]
fn a_prompt_of_bytes_is_exactly_as_long_as_was_asked_for() {
    let subject = subject();
    let fit =
        |tokens, depth| PasskeyPrompt::fit(subject.tokenizer().unwrap(), tokens, depth, 4711, 100);
    for tokens in [400, 401, 1000, 20_000] {
        for depth in [0.0, 0.1, 0.5, 1.0] {
            let prompt = fit(tokens, depth).unwrap();
            assert_eq!(prompt.ids.len(), tokens, "depth {depth}");
            assert_eq!(prompt.prefill, tokens - 100);
            let decode = |ids: &[u32]| subject.tokenizer().unwrap().decode(ids).unwrap();
            assert!(decode(&prompt.ids).starts_with(TASK));
            assert!(decode(&prompt.ids).ends_with("The pass key is"));
            assert_eq!(
                decode(&prompt.ids[prompt.passkey_tokens.clone()]),
                "The pass key is 4711. Remember it. 4711 is the pass key."
            );
        }
    }
}

#[test]
fn the_passkey_lies_at_its_depth() {
    let subject = subject();
    let start = |depth| {
        let prompt =
            PasskeyPrompt::fit(subject.tokenizer().unwrap(), 1400, depth, 4711, 100).unwrap();
        prompt.passkey_tokens.start
    };
    // The beginning of the text, the task, and line breaks before and behind no filler.
    let first = start(0.0);
    let task = "There is an important info hidden inside a lot of irrelevant text. Find it and \
                memorize them. I will quiz you about the important information there.";
    assert_eq!(first, 1 + task.len() + 2);
    // What is left for the filler beside the passkey, the question and two line breaks.
    let needle = "The pass key is 4711. Remember it. 4711 is the pass key.".len();
    let question = "What is the pass key? The pass key is".len();
    let filler = 1400 - first - needle - question - 2;
    assert_eq!(start(1.0), first + filler);
    assert_eq!(start(0.5), first + filler / 2);
    assert_eq!(start(0.25), first + filler / 4);
}

#[test]
fn an_answered_prompt_ends_with_the_answer() {
    let subject = subject();
    let prompt = PasskeyPrompt::answered(subject.tokenizer().unwrap(), 600, 0.5, 4711).unwrap();
    assert_eq!(prompt.ids.len(), 600);
    let decode = |ids: &[u32]| subject.tokenizer().unwrap().decode(ids).unwrap();
    assert_eq!(decode(&prompt.ids[prompt.prefill..]), " 4711.");
    assert!(decode(&prompt.ids).ends_with("The pass key is 4711."));
}

#[test]
fn lengths_without_room_for_the_task_or_beyond_the_model_are_refused() {
    let subject = subject();
    let check = |length| {
        let mut config = config();
        config.comparison.lengths = vec![length];
        // Of so few tokens an eighth is one page, and CHESS reads two.
        config.comparison.policies = vec![PolicyKind::QUEST];
        config.check(subject.config(), subject.tokenizer())
    };
    // Task, passkey, question, four line breaks, the beginning of a text, and four new tokens.
    let min = match check(100).unwrap_err() {
        ExperimentError::TooShort { min, found } => {
            assert_eq!(found, 100);
            min
        }
        other => panic!("{other}"),
    };
    assert!(check(min - 1).is_err());
    check(min).unwrap();
    check(2048).unwrap();
    let error = check(2049).unwrap_err();
    assert_eq!(
        error.to_string(),
        "length: the model is made for at most 2048 tokens, found 2049"
    );
}

#[test]
fn settings_that_ask_for_nothing_are_refused() {
    let subject = subject();
    let refused = |change: fn(&mut PasskeyConfig), message: &str| {
        let mut config = config();
        change(&mut config);
        let error = config
            .check(subject.config(), subject.tokenizer())
            .unwrap_err();
        assert!(error.is_bad_request());
        assert!(error.to_string().contains(message), "{error}");
    };
    refused(|c| c.depths = 0, "depths: expected at least 1, found 0");
    refused(|c| c.trials = 0, "trials: expected at least 1, found 0");
    refused(|c| c.tail = 0, "tail: expected at least 1");
    refused(
        |c| c.comparison.policies.clear(),
        "policies: expected at least 1",
    );
    refused(
        |c| c.comparison.lengths.clear(),
        "lengths: expected at least 1",
    );
    refused(
        |c| c.comparison.budgets.clear(),
        "budgets: expected at least 1",
    );
    refused(
        |c| c.comparison.budgets[0] = "7".parse().unwrap(),
        "token budget",
    );
    refused(|c| c.comparison.page_size = 12, "page size");
}

#[test]
fn what_is_asked_for_twice_is_counted_once() {
    let subject = subject();
    let mut config = config();
    config.comparison.policies = vec![PolicyKind::Dense, PolicyKind::QUEST, PolicyKind::Dense];
    config.comparison.lengths = vec![512, 512];
    config.comparison.budgets.push(config.comparison.budgets[0]);
    let outcomes = run(&subject, &config);
    assert_eq!(outcomes.len(), 3 * 2);
    assert!(rows(&config, &outcomes).iter().all(|row| row.trials == 1));
}

/// The prefill is shared; what comes out must not depend on who else is asked.
#[test]
fn policies_answer_together_as_they_answer_alone() {
    let subject = subject();
    let config = config();
    let together = run(&subject, &config);
    assert_eq!(
        together.len(),
        2 * 2 * (1 + 2 * (PolicyKind::ALL.len() - 1))
    );
    let mut reversed = config.clone();
    reversed.comparison.policies.reverse();
    reversed.comparison.budgets.reverse();
    let mut others = run(&subject, &reversed);
    for &policy in PolicyKind::ALL {
        for &budget in &config.comparison.budgets {
            let mut alone = config.clone();
            (alone.comparison.policies, alone.comparison.budgets) = (vec![policy], vec![budget]);
            others.extend(run(&subject, &alone));
        }
    }
    for outcome in others {
        let same = together.iter().find(|other| {
            (other.policy, other.asked_budget) == (outcome.policy, outcome.asked_budget)
                && (other.length, other.depth) == (outcome.length, outcome.depth)
        });
        assert_eq!(Some(&outcome), same);
    }
    // Were all answers equal, the test above would say nothing.
    let answers = together.iter().map(|outcome| &outcome.answer);
    let answers = answers.collect::<std::collections::HashSet<_>>();
    assert!(answers.len() > 4, "{answers:?}");
}

#[test]
fn a_budget_that_covers_the_context_answers_as_dense_attention_does() {
    let subject = subject();
    let mut config = config();
    config.comparison.budgets = vec!["1024".parse().unwrap()];
    let outcomes = run(&subject, &config);
    for dense in outcomes.iter().filter(|o| o.policy == PolicyKind::Dense) {
        let others = outcomes.iter();
        let others = others.filter(|o| (o.length, o.depth) == (dense.length, dense.depth));
        for other in others {
            assert_eq!(other.answer, dense.answer, "{}", other.policy);
        }
    }
}

#[test]
fn a_run_that_was_cut_anywhere_ends_with_the_same_results() {
    let subject = subject();
    let mut config = config();
    config.comparison.policies = vec![PolicyKind::Dense, PolicyKind::QUEST, PolicyKind::H2o];
    config.comparison.lengths = vec![512];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let info = run_info(&subject, "passkey");
    let run = || {
        let mut journal = Journal::<PasskeyOutcome>::open(Some(&path), &info).unwrap();
        let known = journal.rows().len();
        let mut prefills = 0;
        passkey::run(&subject, &config, &mut journal, &mut |progress| {
            prefills += usize::from(progress.prefilled.is_some_and(|(done, all)| done == all));
            assert!(progress.done <= progress.total && progress.total == 10);
        })
        .unwrap();
        (known, prefills, rows(&config, journal.rows()))
    };
    let (_, _, whole) = run();
    assert_eq!(whole.len(), 5 * 2);
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.split_inclusive('\n').collect::<Vec<_>>();
    assert_eq!(lines.len(), 1 + 10);
    for (rows_kept, prefills_left) in [(0, 2), (3, 2), (5, 1), (7, 1), (10, 0)] {
        // The next row is cut in the middle.
        let next = lines
            .get(1 + rows_kept)
            .map_or("", |line| &line[..line.len() / 2]);
        fs::write(&path, lines[..1 + rows_kept].concat() + next).unwrap();
        let (known, prefills, resumed) = run();
        assert_eq!((known, prefills), (rows_kept, prefills_left));
        assert_eq!(resumed, whole);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn passkeys_differ_between_trials_and_are_drawn_from_the_seed() {
    let subject = subject();
    let mut config = config();
    config.comparison.policies = vec![PolicyKind::Dense];
    config.trials = 3;
    config.answer_tokens = 1;
    let passkeys = |config: &PasskeyConfig| {
        let outcomes = run(&subject, config);
        outcomes.iter().map(|o| o.passkey).collect::<Vec<_>>()
    };
    let drawn = passkeys(&config);
    assert!(drawn.iter().all(|key| (1..=50_000).contains(key)));
    let mut unique = drawn.clone();
    unique.sort();
    unique.dedup();
    assert_eq!((drawn.len(), unique.len()), (12, 12));
    assert_eq!(passkeys(&config), drawn);
    // The trials at one length do not depend on those at another.
    let mut only = config.clone();
    only.comparison.lengths = vec![640];
    assert_eq!(passkeys(&only), drawn[6..]);
    config.seed = 4;
    assert_ne!(passkeys(&config), drawn);
}
