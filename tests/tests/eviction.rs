//! H2O and TOVA on every device, against naive ones in f64.

use std::collections::BTreeSet;

use proptest::{prelude::*, sample::select};
use quest_burn::{PageSharing, policy::Read};
use quest_burn_tests::{
    arrays::{assert_close, rows},
    cases,
    devices::devices,
    naive::{self, Evicting},
    session::{Session, SessionShape, heads_of, tokens_read},
};

fn evicting(budget: usize) -> impl Strategy<Value = Evicting> {
    let sharing = select(vec![PageSharing::KvHead, PageSharing::QueryHead]);
    prop_oneof![
        Just(Evicting::Tova),
        (0..budget, sharing).prop_map(|(recent, sharing)| Evicting::H2o { recent, sharing }),
    ]
}

/// A session, a budget, a policy, and which sequences are active in each step.
fn eviction_case() -> impl Strategy<Value = (SessionShape, usize, Evicting, Vec<[bool; 2]>, u64)> {
    let heads = select(vec![(1, 1), (2, 1), (4, 2), (3, 3)]);
    let prompts = prop::collection::vec(1usize..40, 2);
    let shape = (heads, prompts).prop_map(|((n_heads, n_kv_heads), prompts)| SessionShape {
        n_heads,
        n_kv_heads,
        prompts,
        n_layers: 1,
        head_dim: 8,
        page_size: 8,
        room: 24,
    });
    let active = prop::collection::vec(any::<[bool; 2]>(), 1..24);
    let policy = (2usize..20).prop_flat_map(|budget| (Just(budget), evicting(budget)));
    (shape, policy, active, any::<u64>())
        .prop_map(|(shape, (budget, policy), active, seed)| (shape, budget, policy, active, seed))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn evicting_policies_read_what_naive_ones_do(
        (shape, budget, evicting, active, seed) in eviction_case(),
    ) {
        for device in devices() {
            let mut session = Session::new(&shape, &device.device, seed);
            let policy = evicting.policy(budget);
            let (n_heads, n_kv_heads) = (shape.n_heads, shape.n_kv_heads);
            let mut naive =
                [(); 2].map(|()| naive::Kept::new(&evicting, budget, n_heads, n_kv_heads));
            for active in active.iter().filter(|active| active.contains(&true)) {
                let decoded = session.decode(active);
                let (outputs, observations) = session.attend(&decoded, &policy);
                let output = rows(&outputs[0]);
                for observation in observations {
                    let s = observation.sequence;
                    let queries = heads_of(&decoded.queries[0], s);
                    let lists = naive[s].step(&queries, &session.keys[s], session.scale());
                    for head in 0..shape.n_heads {
                        let list = &lists[head * lists.len() / shape.n_heads];
                        let found = match &observation.read {
                            Read::All => (0..observation.length).collect(),
                            Read::Tokens(found) => found[head * found.len() / shape.n_heads].clone(),
                            Read::Pages(_) => panic!("tokens were expected"),
                        };
                        prop_assert_eq!(&found, list, "{}, {} tokens", device, observation.length);
                        let kv_head = head * shape.n_kv_heads / shape.n_heads;
                        let expected = naive::attend(
                            &queries[head],
                            &session.keys[s][kv_head],
                            &session.values[s][kv_head],
                            list,
                            session.scale(),
                        );
                        assert_close(&output[s * shape.n_heads + head], &expected, 2e-5, &device.name);
                    }
                }
                for s in (0..2).filter(|&s| !active[s]) {
                    let idle = &output[s * shape.n_heads..][..shape.n_heads];
                    prop_assert!(idle.iter().flatten().all(|&v| v == 0.0));
                }
            }
        }
    }

    #[test]
    fn an_evicted_token_never_returns(
        (shape, budget, evicting, active, seed) in eviction_case(),
    ) {
        for device in devices() {
            let mut session = Session::new(&shape, &device.device, seed);
            let policy = evicting.policy(budget);
            let mut allowed = vec![vec![None::<BTreeSet<usize>>; shape.n_kv_heads]; 2];
            for active in active.iter().filter(|active| active.contains(&true)) {
                let decoded = session.decode(active);
                let (_, observations) = session.attend(&decoded, &policy);
                for observation in observations {
                    for (head, allowed) in allowed[observation.sequence].iter_mut().enumerate() {
                        let mut read = tokens_read(&observation, head, shape.n_kv_heads);
                        if let Some(allowed) = &*allowed {
                            prop_assert!(read.is_subset(allowed), "{}: {:?} of {:?}", device, read, allowed);
                        }
                        read.insert(observation.length);
                        *allowed = Some(read);
                    }
                }
            }
        }
    }
}
