//! Whatever comes, goes and is called off, answers are those of the model alone and no page is lost.

mod common;

use std::collections::{HashMap, VecDeque};

use common::*;
use proptest::prelude::*;
use quest_burn_engine::{Answer, Event, Policy, Request};
use quest_burn_models::local::LocalModel;
use quest_burn_tests::{cases, seed};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A request, and what its client does.
#[derive(Clone, Debug)]
struct Visit {
    /// How much it has of one of a few documents, and which.
    document: u32,
    shared: usize,
    own: usize,
    new_tokens: usize,
    /// 0 for dense attention, or a number of pages.
    budget: usize,
    /// Tokens after which the client goes away.
    leaves_after: Option<usize>,
    /// Tokens of all answers that are waited for before it comes.
    pause: usize,
}

impl Visit {
    fn ids(&self, number: usize) -> Vec<u32> {
        let document = prompt(120, self.document);
        let own = prompt(self.own, 31 + number as u32);
        [&document[..self.shared], &own].concat()
    }

    fn policy(&self) -> Policy {
        match self.budget {
            0 => Policy::Dense,
            pages => Policy::quest(pages * PAGE_SIZE),
        }
    }
}

fn visits() -> impl Strategy<Value = Vec<Visit>> {
    let visit = (
        0..3u32,
        0..120usize,
        1..40usize,
        1..30usize,
        prop_oneof![Just(0), Just(3), Just(6)],
        prop::option::weighted(0.25, 0..12usize),
        0..12usize,
    );
    let visit = visit.prop_map(
        |(document, shared, own, new_tokens, budget, leaves_after, pause)| Visit {
            document,
            shared,
            own,
            new_tokens,
            budget,
            leaves_after,
            pause,
        },
    );
    prop::collection::vec(visit, 4..24)
}

/// Answers of the model alone, each computed once.
struct Alone {
    model: LocalModel,
    known: HashMap<(Vec<u32>, usize), Vec<u32>>,
}

impl Alone {
    fn answer(&mut self, ids: &[u32], visit: &Visit) -> &[u32] {
        let key = (ids.to_vec(), visit.budget);
        let model = &self.model;
        let known = self.known.entry(key);
        let known = known.or_insert_with(|| alone(model, ids, visit.new_tokens, &visit.policy()));
        &known[..visit.new_tokens]
    }
}

struct Client {
    visit: Visit,
    ids: Vec<u32>,
    answer: Answer,
    found: Vec<u32>,
}

impl Client {
    /// Takes the next event; says whether there will be more.
    fn take(&mut self) -> bool {
        match self
            .answer
            .blocking_next()
            .expect("a last event comes first")
        {
            Event::Token(token) => {
                self.found.push(token.id);
                self.visit.leaves_after != Some(self.found.len())
            }
            Event::Finished { usage, .. } => {
                assert_eq!(usage.new_tokens, self.found.len());
                assert_eq!(usage.new_tokens, self.visit.new_tokens);
                false
            }
            Event::Failed { error } => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_answer_is_that_of_the_model_alone(
        visits in visits(),
        pages in 24..80usize,
        max_sequences in 1..8usize,
        prompt_tokens in 32..80usize,
        prefix_cache in any::<bool>(),
    ) {
        let model = model();
        let mut alone = Alone { model: model.clone(), known: HashMap::new() };
        let engine = engine_with(&model, pages, |config| {
            config
                .with_max_sequences(max_sequences)
                .with_step_tokens(max_sequences + prompt_tokens)
                .with_prefix_cache(prefix_cache)
        });
        let mut clients = VecDeque::new();
        let mut ended = Vec::new();
        for (number, visit) in visits.into_iter().enumerate() {
            let ids = visit.ids(number);
            let request = Request::new(ids.clone(), visit.new_tokens);
            let answer = engine.submit(request.with_policy(visit.policy())).unwrap();
            let pause = visit.pause;
            if visit.leaves_after != Some(0) {
                clients.push_back(Client { visit, ids, answer, found: Vec::new() });
            }
            for _ in 0..pause {
                let Some(mut client) = clients.pop_front() else { break };
                match client.take() {
                    true => clients.push_back(client),
                    false => ended.push((client.visit, client.ids, client.found)),
                }
            }
        }
        for mut client in clients {
            while client.take() {}
            ended.push((client.visit, client.ids, client.found));
        }
        for (visit, ids, found) in ended {
            prop_assert_eq!(&found[..], &alone.answer(&ids, &visit)[..found.len()]);
        }
        // Those who went away are seen in the step that follows.
        let last = answers(&engine, [Request::new(vec![3], 1)]);
        prop_assert_eq!(last.len(), 1);
        engine.shutdown();
        let stats = engine.stats();
        prop_assert_eq!((stats.running, stats.waiting, stats.used_pages()), (0, 0, 0));
        prop_assert_eq!(stats.failed, 0);
    }
}

/// Requests of random lengths that come in waves, some of which are called off.
#[test]
fn ten_thousand_requests_lose_no_page() {
    let model = model();
    let engine = engine_with(&model, 64, |config| config.with_queue(1000));
    let mut rng = StdRng::seed_from_u64(seed());
    let mut left = 10_000;
    while left > 0 {
        let wave = left.min(rng.random_range(1..200));
        left -= wave;
        let submitted = (0..wave).map(|_| {
            let document = rng.random_range(0..5);
            let ids = prompt(rng.random_range(1..60), document);
            let policy = [Policy::Dense, quest()][rng.random_range(0..2)].clone();
            let request = Request::new(ids, rng.random_range(1..8));
            engine.submit(request.with_policy(policy)).unwrap()
        });
        let submitted = submitted.collect::<Vec<_>>();
        for (i, answer) in submitted.into_iter().enumerate() {
            if i % 7 != 0 {
                answer.wait().unwrap();
            }
        }
    }
    engine.shutdown();
    let stats = engine.stats();
    assert_eq!(stats.finished + stats.cancelled, 10_000);
    assert_eq!(
        (stats.running, stats.waiting, stats.used_pages()),
        (0, 0, 0)
    );
    assert_eq!(stats.free_pages + stats.cached_pages, stats.pages);
}
