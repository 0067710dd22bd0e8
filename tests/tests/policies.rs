//! The policies on every device: they read what they claim and no more than their budget, what is
//! evicted stays away, and everything is forgotten where the cache forgets.

use std::collections::BTreeSet;

use burn::tensor::{Tensor, TensorData};
use proptest::{prelude::*, sample::select};
use quest_burn::{
    PageSharing, QuestConfig,
    attention::{QuestAttentionConfig, RopeConfig},
    cache::LayerCache,
    policy::{
        DensePolicy, H2oConfig, Observation, ObservedPolicy, PagePolicy, PolicyConfig, PolicyKind,
        Read, TovaConfig,
    },
};
use quest_burn_tests::{
    arrays::{assert_close, rows, values},
    cases,
    devices::{TestDevice, devices},
    layer::{Passage, random_hidden, random_layer},
    naive,
    session::{Session, SessionShape, heads_of, observed},
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

fn session(shape: &SessionShape, device: &TestDevice, seed: u64) -> Session {
    Session::new(shape, &device.device, StdRng::seed_from_u64(seed))
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
        let mut session = session(&shape(), device, 1);
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
        let mut session = session(&shape, device, 2);
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
            let mut session = session(&shape(), device, 3);
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

/// The tokens that the query heads of a KV head read.
fn tokens_read(observation: &Observation, kv_head: usize, n_kv_heads: usize) -> BTreeSet<usize> {
    let of_head = |lists: &[Vec<usize>]| {
        let per_head = lists.len() / n_kv_heads;
        let lists = &lists[kv_head * per_head..][..per_head];
        lists.concat().into_iter().collect::<BTreeSet<_>>()
    };
    match &observation.read {
        Read::All => (0..observation.length).collect(),
        Read::Tokens(lists) => of_head(lists),
        Read::Pages(lists) => of_head(lists)
            .into_iter()
            .flat_map(|page| page * PAGE_SIZE..(page + 1) * PAGE_SIZE)
            .filter(|&token| token < observation.length)
            .collect(),
    }
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
                let mut session = session(&shape(), device, 4);
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

/// The policies that evict, with what they should read by the books.
#[derive(Clone, Debug)]
enum Evicting {
    H2o { recent: usize, sharing: PageSharing },
    Tova,
}

impl Evicting {
    fn policy(&self, budget: usize) -> ObservedPolicy {
        ObservedPolicy::new(match self {
            Self::H2o { recent, sharing } => {
                let config = H2oConfig::new()
                    .with_token_budget(budget)
                    .with_recent_tokens(Some(*recent))
                    .with_sharing(*sharing)
                    .with_dense_layers(0);
                Box::new(config.init().expect("the configuration is valid"))
            }
            Self::Tova => {
                let config = TovaConfig::new().with_token_budget(budget);
                let config = config.with_dense_layers(0);
                Box::new(config.init().expect("the configuration is valid"))
            }
        })
    }

    fn lists(&self, shape: &SessionShape) -> usize {
        match self {
            Self::H2o {
                sharing: PageSharing::QueryHead,
                ..
            } => shape.n_heads,
            Self::H2o { .. } => shape.n_kv_heads,
            Self::Tova => 1,
        }
    }

    fn recent(&self) -> usize {
        match self {
            Self::H2o { recent, .. } => *recent,
            Self::Tova => 0,
        }
    }
}

/// Tokens and the attention that they have received, of one list.
type Held = Vec<(usize, f64)>;

/// Evicts the tokens with the lowest values but the most recent until `n` are left.
fn evict(held: &mut Held, values: &[f64], n: usize, recent: usize) {
    let mut values = values.to_vec();
    while held.len() > n {
        let lowest = (0..held.len() - recent).min_by(|&a, &b| values[a].total_cmp(&values[b]));
        let lowest = lowest.expect("there are tokens to evict");
        held.remove(lowest);
        values.remove(lowest);
    }
}

/// A naive eviction policy on one sequence.
struct Naive<'a> {
    evicting: &'a Evicting,
    budget: usize,
    lists: Vec<Held>,
    seen: usize,
}

impl Naive<'_> {
    /// Attention weights of a list's heads, summed.
    fn received(
        &self,
        list: usize,
        queries: &[Vec<f64>],
        keys: &[Vec<Vec<f64>>],
        scale: f64,
    ) -> Vec<f64> {
        let group = queries.len() / self.lists.len();
        let tokens = self.lists[list].iter().map(|t| t.0).collect::<Vec<_>>();
        let mut sum = vec![0.0; tokens.len()];
        for head in list * group..(list + 1) * group {
            let keys = &keys[head * keys.len() / queries.len()];
            for (i, sum) in sum.iter_mut().enumerate() {
                // Attention over one-hot values is the attention itself.
                let one_hot = (0..keys.len())
                    .map(|t| vec![f64::from(u8::from(t == tokens[i]))])
                    .collect::<Vec<_>>();
                *sum += naive::attend(&queries[head], keys, &one_hot, &tokens, scale)[0];
            }
        }
        sum
    }

    /// What each list reads.
    fn step(
        &mut self,
        queries: &[Vec<f64>],
        keys: &[Vec<Vec<f64>>],
        scale: f64,
    ) -> Vec<Vec<usize>> {
        let length = keys[0].len();
        let accumulates = matches!(self.evicting, Evicting::H2o { .. });
        let recent = self.evicting.recent();
        for list in 0..self.lists.len() {
            self.lists[list].extend((self.seen..length).map(|token| (token, 0.0)));
            if self.lists[list].len() > self.budget {
                let now = self.received(list, queries, keys, scale);
                let held = &mut self.lists[list];
                let values = held.iter().zip(now).map(|(t, now)| t.1 + now);
                let values = values.collect::<Vec<_>>();
                evict(held, &values, self.budget, recent);
            }
        }
        self.seen = length;
        let read = |list: &Held| list.iter().map(|t| t.0).collect();
        let read = self.lists.iter().map(read).collect();
        for list in 0..self.lists.len() {
            let now = self.received(list, queries, keys, scale);
            let held = &mut self.lists[list];
            if accumulates {
                held.iter_mut().zip(&now).for_each(|(t, now)| t.1 += now);
            }
            let values = match accumulates {
                true => held.iter().map(|t| t.1).collect(),
                false => now,
            };
            evict(held, &values, self.budget - 1, recent.saturating_sub(1));
        }
        read
    }
}

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
        ..shape()
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
            let mut session = session(&shape, &device, seed);
            let policy = evicting.policy(budget);
            let mut naive = [(); 2].map(|()| Naive {
                evicting: &evicting,
                budget,
                lists: vec![Held::new(); evicting.lists(&shape)],
                seen: 0,
            });
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
            let mut session = session(&shape, &device, seed);
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
            let mut session = session(&shape(), device, 5);
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
