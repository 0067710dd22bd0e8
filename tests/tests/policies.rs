//! The policies on every device: they read what they claim and no more than their budget, what is
//! evicted stays away, and everything is forgotten where the cache forgets.

use burn::tensor::{Tensor, TensorData};
use proptest::prelude::*;
use quest_burn::{
    PageSharing, QuestConfig,
    attention::{QuestAttentionConfig, RopeConfig},
    cache::LayerCache,
    policy::{DensePolicy, ObservedPolicy, PagePolicy, PolicyConfig, PolicyKind, Read},
};
use quest_burn_tests::{
    arrays::{assert_close, rows, values},
    cases,
    devices::{TestDevice, devices},
    layer::{Passage, random_hidden, random_layer},
    session::{Session, SessionShape, observed, tokens_read},
};
use rand::{SeedableRng, rngs::StdRng};

const PAGE_SIZE: usize = 8;
const BUDGET: usize = 32;

fn config(kind: PolicyKind, budget: usize) -> PolicyConfig {
    let quest = QuestConfig::new()
        .with_page_size(PAGE_SIZE)
        .with_token_budget(budget)
        .with_dense_layers(0);
    PolicyConfig::new(kind)
        .with_quest(quest)
        .with_rope(Some(RopeConfig::new()))
}

fn reads_pages(kind: PolicyKind) -> bool {
    matches!(
        kind,
        PolicyKind::Dense | PolicyKind::Quest | PolicyKind::Oracle
    )
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

/// The layer with NaN in the rows of some tokens, `(sequence, kv head, token)`.
fn poisoned(
    session: &Session,
    poison_keys: bool,
    is_poisoned: impl Fn(usize, usize, usize) -> bool,
) -> LayerCache {
    let layer = session.cache.layer(0);
    let poison = |pool: &Tensor<4>| {
        let [_, heads, page_size, head_dim] = pool.dims();
        let mut rows = values(pool);
        for (sequence, pages) in session.cache.pages().iter().enumerate() {
            for token in 0..session.cache.lengths()[sequence] {
                let page = pages[token / page_size] as usize;
                for head in (0..heads).filter(|&head| is_poisoned(sequence, head, token)) {
                    let row = (page * heads + head) * page_size + token % page_size;
                    rows[row * head_dim..][..head_dim].fill(f32::NAN);
                }
            }
        }
        Tensor::from_data(TensorData::new(rows, pool.dims()), &pool.device())
    };
    let keys = match poison_keys {
        true => poison(layer.keys()),
        false => layer.keys().clone(),
    };
    let mut poisoned =
        LayerCache::from_parts(0, keys, poison(layer.values()), layer.digests().clone());
    *poisoned.states_mut() = layer.states().clone();
    poisoned
}

#[test]
fn what_is_not_listed_is_not_read_and_what_is_listed_is() {
    for_each_policy(|kind, device, context| {
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let mut config = config(kind, 2 * PAGE_SIZE);
            config.quest.sharing = sharing;
            for steps_before in [0, 3] {
                let context = format!("{context}, {sharing:?}, step {steps_before}");
                let policy = observed(&config);
                let mut session = Session::new(&shape(), &device.device, 4);
                for _ in 0..steps_before {
                    let decoded = session.decode(&[true; 4]);
                    session.attend(&decoded, &policy);
                }
                // True scores need every key, of the oracle always and of the others when they
                // rank a prompt; no value is needed for them.
                let evicts = matches!(kind, PolicyKind::H2o | PolicyKind::Tova);
                let ranks = kind == PolicyKind::Oracle || (evicts && steps_before == 0);
                assert_reads_what_it_lists(&mut session, &policy, !ranks, &context);
            }
        }
    });
}

fn assert_reads_what_it_lists(
    session: &mut Session,
    policy: &ObservedPolicy,
    poison_keys: bool,
    context: &str,
) {
    let SessionShape {
        n_heads,
        n_kv_heads,
        ..
    } = session.shape;
    let decoded = session.decode(&[true; 4]);
    let scale = session.scale();
    let attend = |mut layer: LayerCache| {
        let query = decoded.queries[0].clone();
        let output = policy.attention(query, &mut layer, &decoded.step, scale);
        (rows(&output), policy.observations().take())
    };
    let (expected, observations) = attend(poisoned(session, false, |_, _, _| false));
    let lists = observations
        .iter()
        .map(|o| {
            (0..n_kv_heads)
                .map(|head| tokens_read(o, head, n_kv_heads))
                .collect::<Vec<_>>()
        })
        .collect::<Vec<_>>();

    let is_listed = |s: usize, head: usize, token: usize| lists[s][head].contains(&token);
    let layer = poisoned(session, poison_keys, |s, head, token| {
        !is_listed(s, head, token)
    });
    let (found, _) = attend(layer);
    assert!(
        expected.iter().flatten().all(|v| v.is_finite()),
        "{context}"
    );
    assert_eq!(found, expected, "{context}: something else was read");

    // One page of a sequence after the other.
    for (sequence, lists) in lists.iter().enumerate() {
        for page in 0..session.cache.pages()[sequence].len() {
            let in_page = |token: usize| token / PAGE_SIZE == page;
            let layer = poisoned(session, false, |s, _, token| {
                s == sequence && in_page(token)
            });
            let (found, _) = attend(layer);
            for (row, values) in found.iter().enumerate() {
                let (s, head) = (row / n_heads, row % n_heads);
                let list = match &observations[sequence].read {
                    Read::All => None,
                    Read::Pages(lists) | Read::Tokens(lists) => {
                        Some(&lists[head * lists.len() / n_heads])
                    }
                };
                let is_read = match (&observations[sequence].read, list) {
                    (Read::Pages(_), Some(list)) => list.contains(&page),
                    (_, Some(list)) => list.iter().any(|&token| in_page(token)),
                    (_, None) => true,
                };
                let is_read = s == sequence && is_read;
                assert_eq!(
                    values.iter().any(|v| v.is_nan()),
                    is_read,
                    "{context}: page {page} of sequence {sequence}, head {head}, {lists:?}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_budget_that_covers_the_cache_equals_dense_to_the_last_bit(
        lengths in prop::collection::vec((1usize..70).prop_flat_map(|n| (Just(n), 1..=n)), 1..4),
        more in 0usize..3,
        seed: u64,
    ) {
        for device in devices() {
            let case = Case::new(&lengths, &device, seed);
            let dense = case.run(&DensePolicy, 0..lengths.len());
            let longest = lengths.iter().map(|l| l.0).max().unwrap_or_default();
            for &kind in PolicyKind::ALL {
                let budget = longest.next_multiple_of(PAGE_SIZE) + more;
                let policy = config(kind, budget).init().expect("the configuration is valid");
                prop_assert_eq!(&case.run(&*policy, 0..lengths.len()), &dense, "{} on {}", kind, device);
            }
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_the_rest_of_the_batch(
        lengths in prop::collection::vec((1usize..70).prop_flat_map(|n| (Just(n), 1..=n)), 2..4),
        seed: u64,
    ) {
        for device in devices() {
            let case = Case::new(&lengths, &device, seed);
            for &kind in PolicyKind::ALL {
                let policy = config(kind, 2 * PAGE_SIZE).init().expect("the configuration is valid");
                let together = case.run(&*policy, 0..lengths.len());
                for (i, together) in together.iter().enumerate() {
                    let alone = &case.run(&*policy, i..i + 1)[0];
                    let wide = |v: &[f32]| v.iter().copied().map(f64::from).collect::<Vec<_>>();
                    let context = format!("{kind} on {device}, sequence {i}");
                    assert_close(&wide(together), &wide(alone), 1e-4, &context);
                }
            }
        }
    }
}

/// Sequences that go through a layer.
struct Case {
    layer: quest_burn::attention::QuestAttention,
    hidden: Vec<Tensor<2>>,
    prompts: Vec<usize>,
}

impl Case {
    fn new(lengths: &[(usize, usize)], device: &TestDevice, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let config = QuestAttentionConfig::new(24, 4)
            .with_n_kv_heads(Some(2))
            .with_head_dim(Some(8))
            .with_rope(Some(RopeConfig::new()));
        let (lengths, prompts): (Vec<_>, Vec<_>) = lengths.iter().copied().unzip();
        Self {
            layer: random_layer(&config, &device.device, &mut rng),
            hidden: random_hidden(&lengths, 24, &device.device, &mut rng),
            prompts,
        }
    }

    fn run(&self, policy: &dyn PagePolicy, sequences: std::ops::Range<usize>) -> Vec<Vec<f32>> {
        let passage = Passage {
            layer: &self.layer,
            policy,
            page_size: PAGE_SIZE,
            chunk: 16,
        };
        let outputs = passage.run(&self.hidden[sequences.clone()], &self.prompts[sequences]);
        outputs.iter().map(values).collect()
    }
}

#[test]
fn what_the_cache_forgets_is_forgotten() {
    let only_first = [true, false, false, false];
    for_each_policy(|kind, device, context| {
        for way in ["truncate", "release", "reset"] {
            let context = format!("{context}, {way}");
            let policy = observed(&config(kind, 2 * PAGE_SIZE));
            let mut session = Session::new(&shape(), &device.device, 5);
            for _ in 0..6 {
                let decoded = session.decode(&[true; 4]);
                session.attend(&decoded, &policy);
            }
            let before = session.cache.lengths()[0];
            match way {
                "truncate" => session.truncate(0, 40),
                "release" => session.cache.release(0).expect("the sequence exists"),
                _ => session.cache.reset(),
            }
            // Longer than before, so that what was seen then could be taken for what is there now.
            let new = before + 5 - session.cache.lengths()[0];
            session.prefill(&[new, 0, 0, 0]);
            let decoded = session.decode(&only_first);
            let layer = session.cache.layer(0);
            let parts = [layer.keys(), layer.values(), layer.digests()].map(Tensor::clone);
            let [keys, values_, digests] = parts;
            let mut fresh = LayerCache::from_parts(0, keys, values_, digests);
            let query = decoded.queries[0].clone();
            let expected = policy.attention(query, &mut fresh, &decoded.step, session.scale());
            let expected = (values(&expected), policy.observations().take());
            let (outputs, observations) = session.attend(&decoded, &policy);
            assert_eq!((values(&outputs[0]), observations), expected, "{context}");
        }
    });
}
