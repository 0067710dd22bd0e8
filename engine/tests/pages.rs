//! Pages are shared, copied before they are written, given up and given back.

mod common;

use std::sync::mpsc::{Sender, channel};

use common::*;
use quest_burn_engine::{Engine, Event, Policy, Request, Stats, TokenMask};

#[test]
fn a_shared_beginning_is_computed_once() {
    for model in models() {
        let engine = engine(&model, 200);
        let document = prompt(80, 1);
        let asked = |question: u32| [document.clone(), prompt(20, question)].concat();
        let request =
            |question: u32, policy: Policy| Request::new(asked(question), 8).with_policy(policy);
        let first = answers(&engine, [request(2, Policy::Dense)]).remove(0);
        assert_eq!(first.usage.cached_tokens, 0);
        for (question, policy) in [(3, Policy::Dense), (4, quest())] {
            let answer = answers(&engine, [request(question, policy.clone())]).remove(0);
            // All ten pages, as prompts attend densely for every policy.
            assert_eq!(answer.usage.cached_tokens, 80);
            assert_eq!(answer.ids(), alone(&model, &asked(question), 8, &policy));
        }
        let stats = engine.stats();
        assert_eq!((stats.prompt_tokens, stats.cached_tokens), (300, 160));
        assert_eq!(stats.used_pages(), 0);
    }
}

#[test]
fn requests_that_come_together_share_their_beginning_too() {
    let model = model();
    let engine = engine(&model, 200);
    let ids = prompt(100, 1);
    let requests = (0..5).map(|_| Request::new(ids.clone(), 8));
    let found = answers_together(&engine, requests);
    let expected = alone(&model, &ids, 8, &Policy::Dense);
    for (i, answer) in found.iter().enumerate() {
        assert_eq!(answer.ids(), expected);
        // What is left is fed in as many rows as prompts are.
        assert_eq!(answer.usage.cached_tokens, if i == 0 { 0 } else { 84 });
    }
    let pages = engine.stats().cached_pages;
    // 107 tokens whose keys and values are there, once: 13 full pages and the end. Three pages are those of
    // the request that held the engine.
    assert_eq!(pages, 14 + 3);
}

#[test]
fn a_conversation_goes_on_from_its_last_page() {
    let model = model();
    let engine = engine(&model, 200);
    for policy in [Policy::Dense, quest()] {
        let mut ids = prompt(50, 1 + u32::from(policy == Policy::Dense));
        let request = |ids: &[u32]| Request::new(ids.to_vec(), 9).with_policy(policy.clone());
        let answer = answers(&engine, [request(&ids)]).remove(0);
        ids.extend(answer.ids());
        ids.extend(prompt(30, 7));
        let answer = answers(&engine, [request(&ids)]).remove(0);
        // The newest token of an answer is not fed.
        assert_eq!(answer.usage.cached_tokens, 58);
        if policy == Policy::Dense {
            assert_eq!(answer.ids(), alone(&model, &ids, 9, &policy));
        }
    }
}

#[test]
fn what_a_policy_computed_is_not_read_by_others() {
    let model = model();
    let engine = engine(&model, 200);
    let mut ids = prompt(50, 1);
    let answer = answers(
        &engine,
        [Request::new(ids.clone(), 20).with_policy(quest())],
    )
    .remove(0);
    ids.extend(answer.ids());
    ids.extend(prompt(30, 7));
    for (policy, cached) in [
        (Policy::Dense, 48),
        (Policy::quest(4 * PAGE_SIZE), 48),
        (quest(), 69),
    ] {
        let request = Request::new(ids.clone(), 5).with_policy(policy.clone());
        let answer = answers(&engine, [request]).remove(0);
        assert!(
            answer.usage.cached_tokens >= cached,
            "{policy:?} {answer:?}"
        );
        if policy == Policy::Dense {
            assert_eq!(answer.usage.cached_tokens, cached);
            assert_eq!(answer.ids(), alone(&model, &ids, 5, &policy));
        }
    }
}

#[test]
fn a_page_that_others_read_is_copied_before_it_is_written() {
    for model in models() {
        let engine = engine(&model, 200);
        // 44 tokens in common, which end inside the sixth page, while the first goes on decoding.
        let common = prompt(44, 1);
        let other = [common.clone(), prompt(30, 9)].concat();
        let first = [common, prompt(30, 2)].concat();
        let mut running = engine.submit(Request::new(first.clone(), 60)).unwrap();
        assert!(matches!(running.blocking_next(), Some(Event::Token(_))));
        let answer = answers(&engine, [Request::new(other.clone(), 20)]).remove(0);
        assert_eq!(answer.usage.cached_tokens, 44);
        assert_eq!(answer.ids(), alone(&model, &other, 20, &Policy::Dense));
        let rest = running.wait().unwrap().ids();
        assert_eq!(rest, alone(&model, &first, 60, &Policy::Dense)[1..]);
    }
}

#[test]
fn a_dropped_answer_frees_its_pages() {
    let model = model();
    let engine = engine_with(&model, 60, |config| config.with_prefix_cache(false));
    // It is dropped in the middle of a step.
    let dropped = Held::new(&engine, 400);
    assert_eq!(engine.stats().cancelled, 0);
    let kept = engine.submit(Request::new(prompt(20, 2), 20)).unwrap();
    drop(dropped);
    assert_eq!(
        kept.wait().unwrap().ids(),
        alone(&model, &prompt(20, 2), 20, &Policy::Dense)
    );
    let stats = engine.stats();
    assert_eq!((stats.free_pages, stats.running), (60, 0));
    // Its step ended with a token, and there was no further one.
    assert_eq!((stats.cancelled, stats.new_tokens), (1, 21));
}

#[test]
fn sequences_that_give_their_pages_up_go_on_with_the_same_tokens() {
    let model = model();
    for prefix_cache in [true, false] {
        // Each grows to 15 pages; 20 hold one of them and some.
        let engine = engine_with(&model, 20, |config| config.with_prefix_cache(prefix_cache));
        let cases = (0..4u32).map(|i| {
            (
                prompt(20, i),
                [Policy::Dense, quest()][i as usize % 2].clone(),
            )
        });
        let cases = cases.collect::<Vec<_>>();
        let requests = cases
            .iter()
            .map(|(ids, policy)| Request::new(ids.clone(), 100).with_policy(policy.clone()));
        let found = answers_together(&engine, requests);
        for ((ids, policy), answer) in cases.iter().zip(found) {
            assert_eq!(answer.ids(), alone(&model, ids, 100, policy), "{policy:?}");
        }
        let stats = engine.stats();
        assert!(stats.preemptions > 0, "{stats:?}");
        assert_eq!(stats.used_pages(), 0);
    }
}

#[test]
fn pages_that_are_kept_make_room_for_others() {
    let model = model();
    let engine = engine(&model, 20);
    for i in 0..10 {
        let answer = answers(&engine, [Request::new(prompt(100, i), 20)]).remove(0);
        assert_eq!(
            answer.ids(),
            alone(&model, &prompt(100, i), 20, &Policy::Dense)
        );
    }
    let stats = engine.stats();
    assert_eq!((stats.used_pages(), stats.preemptions), (0, 0));
    assert_eq!(stats.free_pages + stats.cached_pages, 20);
    let again = answers(&engine, [Request::new(prompt(100, 9), 2)]).remove(0);
    assert_eq!(again.usage.cached_tokens, 84, "the newest is still there");
}

#[test]
fn more_requests_than_may_wait_are_refused() {
    let model = model();
    let engine = engine_with(&model, 100, |config| {
        config.with_max_sequences(1).with_queue(2)
    });
    let running = Held::new(&engine, 400);
    let request = || Request::new(prompt(20, 1), 1);
    let waiting = [(); 2].map(|()| engine.submit(request()).unwrap());
    assert_eq!((engine.stats().running, engine.stats().waiting), (0, 3));
    let error = engine.submit(request()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "queue: expected fewer than 2 waiting requests, found 2"
    );
    drop(running);
    for answer in waiting {
        assert_eq!(answer.wait().unwrap().tokens.len(), 1);
    }
    assert!(engine.submit(request()).is_ok());
}

/// Says what an engine is at when the first token of an answer is chosen.
struct Looks {
    engine: Engine,
    found: Sender<Stats>,
}

impl TokenMask for Looks {
    fn allowed(&mut self) -> Result<Vec<u32>, String> {
        self.found.send(self.engine.stats()).unwrap();
        Ok(vec![u32::MAX; VOCAB_SIZE.div_ceil(32) as usize])
    }

    fn accept(&mut self, _id: u32) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn a_long_prompt_does_not_hold_others_up() {
    let model = model();
    let engine = engine_with(&model, 200, |config| {
        config.with_max_sequences(4).with_step_tokens(36)
    });
    let (found, looked) = channel();
    let looks = Looks {
        engine: engine.clone(),
        found,
    };
    let held = Held::new(&engine, 1);
    let running = engine.submit(Request::new(prompt(8, 1), 60)).unwrap();
    let long = Request::new(prompt(400, 2), 1).with_mask(Some(Box::new(looks)));
    let long = engine.submit(long).unwrap();
    held.release().wait().unwrap();
    long.wait().unwrap();
    // 36 tokens a step at most: a dozen steps, each with a token of the other answer.
    let new_tokens = looked.recv().unwrap().new_tokens;
    assert!((400 / 36..20).contains(&new_tokens), "{new_tokens}");
    assert_eq!(running.wait().unwrap().tokens.len(), 60);
}
