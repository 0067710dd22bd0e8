//! How much policies read, and where.

use quest_burn::policy::{PagePolicy, PolicyKind, Read};
use quest_burn_tests::{
    arrays::values,
    session::{Session, SessionShape, observed},
};

use super::{PAGE_SIZE, config, for_each_policy, shape};

const BUDGET: usize = 32;

/// How many pages or tokens a policy reads after a prompt, at least and at most.
fn expected(kind: PolicyKind, prompt: usize, length: usize) -> (usize, usize) {
    let pages = length.div_ceil(PAGE_SIZE);
    let budget = BUDGET / PAGE_SIZE;
    let within = pages.min(budget);
    match kind {
        PolicyKind::Dense => (pages, pages),
        PolicyKind::Streaming | PolicyKind::H2o | PolicyKind::Tova => {
            (length.min(BUDGET), length.min(BUDGET))
        }
        PolicyKind::TopP(_) if pages > budget => (1, budget),
        // A page of the budget is for the one that comes next.
        PolicyKind::Reuse(_) if pages > budget => (budget - 1, budget),
        // A prompt beyond the budget is read whole, beside the newest page.
        PolicyKind::Raas(_) | PolicyKind::Random(_) => {
            let prompt = prompt.div_ceil(PAGE_SIZE);
            let staying = prompt + usize::from(pages > prompt);
            (within.max(staying), within.max(staying))
        }
        _ => (within, within),
    }
}

#[test]
fn the_pages_and_tokens_that_are_read_are_as_many_as_the_budget_from_the_first_step_on() {
    for_each_policy(|kind, device, context| {
        let mut session = Session::new(&shape(), &device.device, 1);
        let policy = observed(&config(kind, BUDGET), PAGE_SIZE);
        for _ in 0..20 {
            let decoded = session.decode(&[true; 4]);
            let (_, observations) = session.attend(&decoded, &policy);
            assert_eq!(observations.len(), 4, "{context}");
            for observation in observations {
                let length = session.cache.lengths()[observation.sequence];
                let context = format!("{context}, {length} tokens");
                assert_eq!(observation.length, length, "{context}");
                let prompt = shape().prompts[observation.sequence];
                let (least, most) = expected(kind, prompt, length);
                let found = match kind {
                    PolicyKind::Streaming | PolicyKind::H2o | PolicyKind::Tova => {
                        observation.tokens_read()
                    }
                    _ => observation.pages_read(),
                };
                let fits = found.iter().all(|n| (least..=most).contains(n));
                assert!(fits, "{context}: {found:?}, not {least} to {most}");
                assert!(
                    observation
                        .mass
                        .iter()
                        .all(|m| (0.0..1.0 + 1e-9).contains(m))
                );
            }
        }
    });
}

#[test]
fn the_first_layers_are_dense() {
    for_each_policy(|kind, device, context| {
        let shape = SessionShape {
            n_layers: 4,
            ..shape()
        };
        let mut session = Session::new(&shape, &device.device, 2);
        let mut config = config(kind, BUDGET);
        config.quest.dense_layers = 2;
        let policy = observed(&config, PAGE_SIZE);
        for _ in 0..2 {
            let decoded = session.decode(&[true, false, false, false]);
            let (_, observations) = session.attend(&decoded, &policy);
            let is_dense = observations.iter().map(|o| o.read == Read::All);
            let sparse = kind == PolicyKind::Dense;
            let expected = [true, true, sparse, sparse];
            assert_eq!(is_dense.collect::<Vec<_>>(), expected, "{context}");
        }
    });
}

#[test]
fn watching_changes_nothing() {
    for_each_policy(|kind, device, context| {
        let run = |policy: &dyn PagePolicy| {
            let mut session = Session::new(&shape(), &device.device, 3);
            let step = |_| {
                let decoded = session.decode(&[true; 4]);
                values(&session.attend_unobserved(&decoded, policy)[0])
            };
            (0..4).map(step).collect::<Vec<_>>()
        };
        let policy = config(kind, BUDGET);
        let plain = policy.init(PAGE_SIZE).expect("the configuration is valid");
        assert_eq!(
            run(&observed(&policy, PAGE_SIZE)),
            run(&*plain),
            "{context}"
        );
    });
}
