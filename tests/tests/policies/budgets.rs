//! How much policies read, and where.

use quest_burn::policy::{PagePolicy, PolicyKind, Read};
use quest_burn_tests::{
    arrays::values,
    session::{Session, SessionShape, observed},
};

use super::{PAGE_SIZE, config, for_each_policy, shape};

const BUDGET: usize = 32;

fn reads_pages(kind: PolicyKind) -> bool {
    matches!(
        kind,
        PolicyKind::Dense | PolicyKind::Quest | PolicyKind::Oracle
    )
}

#[test]
fn the_pages_and_tokens_that_are_read_are_as_many_as_the_budget_from_the_first_step_on() {
    for_each_policy(|kind, device, context| {
        let mut session = Session::new(&shape(), &device.device, 1);
        let policy = observed(&config(kind, BUDGET));
        for _ in 0..20 {
            let decoded = session.decode(&[true; 4]);
            let (_, observations) = session.attend(&decoded, &policy);
            assert_eq!(observations.len(), 4, "{context}");
            for observation in observations {
                let length = session.cache.lengths()[observation.sequence];
                let pages = length.div_ceil(PAGE_SIZE);
                let context = format!("{context}, {length} tokens");
                assert_eq!(observation.length, length, "{context}");
                let (found, expected) = match kind {
                    PolicyKind::Dense => (observation.pages_read(), pages),
                    _ if reads_pages(kind) => {
                        (observation.pages_read(), pages.min(BUDGET / PAGE_SIZE))
                    }
                    _ => (observation.tokens_read(), length.min(BUDGET)),
                };
                assert!(found.iter().all(|&n| n == expected), "{context}: {found:?}");
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
        let policy = observed(&config);
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
        let plain = policy.init().expect("the configuration is valid");
        assert_eq!(run(&observed(&policy)), run(&*plain), "{context}");
    });
}
