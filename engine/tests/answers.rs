//! Answers are those of the model alone, whoever else there is.

mod common;

use common::*;
use quest_burn_engine::{Adjustments, FinishReason, Policy, Request, TokenMask};
use quest_burn_models::sampling::SamplingConfig;

#[test]
fn answers_in_a_batch_are_those_of_sessions_alone() {
    for model in models() {
        let engine = engine(&model, 200);
        let cases = (0..12u32).map(|i| {
            let policy =
                [Policy::Dense, quest(), Policy::quest(5 * PAGE_SIZE)][i as usize % 3].clone();
            let n = [1, 7, 8, 30, 64, 90][i as usize % 6];
            (prompt(n, i), 5 + i as usize, policy)
        });
        let cases = cases.collect::<Vec<_>>();
        let requests = cases
            .iter()
            .map(|(ids, n, policy)| Request::new(ids.clone(), *n).with_policy(policy.clone()));
        let answers = answers(&engine, requests);
        for ((ids, n, policy), answer) in cases.iter().zip(answers) {
            assert_eq!(answer.ids(), alone(&model, ids, *n, policy), "{policy:?}");
            assert_eq!(answer.reason, FinishReason::Length);
            assert_eq!(answer.usage.prompt_tokens, ids.len());
            assert_eq!(answer.usage.new_tokens, *n);
        }
        let stats = engine.stats();
        assert_eq!(
            (stats.running, stats.waiting, stats.used_pages()),
            (0, 0, 0)
        );
        assert_eq!(stats.finished, 12);
    }
}

#[test]
fn log_probabilities_in_a_batch_are_those_alone() {
    let model = model();
    let engine = engine_with(&model, 200, |config| config.with_prefix_cache(false));
    let request = |i: u32| {
        let policy = [Policy::Dense, quest()][i as usize % 2].clone();
        let request = Request::new(prompt(40 + i as usize, i), 12).with_policy(policy);
        request.with_logprobs(Some(3))
    };
    let together = answers(&engine, (0..8).map(request));
    for (i, together) in (0..8).zip(together) {
        let alone = answers(&engine, [request(i)]).remove(0);
        // The same kernels run, in up to 8 rows at once.
        assert_eq!(together, alone);
        let token = &alone.tokens[0];
        assert_eq!(token.top[0], (token.id, token.logprob.unwrap()));
        assert_eq!(token.top.len(), 3);
    }
}

#[test]
fn drawn_tokens_depend_on_the_seed_alone() {
    for model in models() {
        let engine = engine(&model, 200);
        let request = |seed: u64| {
            let sampling = SamplingConfig::new()
                .with_temperature(1.5)
                .with_top_p(0.9)
                .with_seed(seed);
            Request::new(prompt(20, 3), 10).with_sampling(sampling)
        };
        let both = answers(&engine, [request(1), request(2), request(1)]);
        assert_eq!(both[0].ids(), both[2].ids());
        assert_ne!(both[0].ids(), both[1].ids());
        assert_eq!(both[1].ids(), answers(&engine, [request(2)])[0].ids());
    }
}

#[test]
fn stop_ids_end_an_answer_and_are_given_out() {
    let model = model();
    let engine = engine(&model, 100);
    let ids = alone(&model, &prompt(20, 1), 10, &Policy::Dense);
    let stop = ids[4];
    let first = ids.iter().position(|&id| id == stop).unwrap();
    let request = Request::new(prompt(20, 1), 10).with_stop_ids(vec![stop]);
    let answer = answers(&engine, [request]).remove(0);
    assert_eq!(answer.ids(), ids[..=first]);
    assert_eq!(answer.reason, FinishReason::Stop);
}

/// Allows ascending ids only.
struct Ascending(u32);

impl TokenMask for Ascending {
    fn allowed(&mut self) -> Result<Vec<u32>, String> {
        let mut words = vec![0; VOCAB_SIZE.div_ceil(32) as usize];
        for id in self.0 + 1..VOCAB_SIZE {
            words[id as usize / 32] |= 1 << (id % 32);
        }
        Ok(words)
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        self.0 = id;
        Ok(())
    }
}

#[test]
fn a_grammar_holds_for_one_answer_beside_others() {
    let model = model();
    let engine = engine(&model, 100);
    let free = Request::new(prompt(20, 1), 5);
    let bound = Request::new(prompt(20, 1), 5).with_mask(Some(Box::new(Ascending(100))));
    let answers = answers(&engine, [free, bound]);
    assert_eq!(
        answers[0].ids(),
        alone(&model, &prompt(20, 1), 5, &Policy::Dense)
    );
    let ids = answers[1].ids();
    assert!(ids.is_sorted_by(|a, b| a < b) && ids[0] > 100, "{ids:?}");
}

#[test]
fn a_grammar_without_a_way_on_fails_its_answer_only() {
    let model = model();
    let engine = engine(&model, 100);
    let bound = Request::new(prompt(20, 1), 5);
    let bound = bound.with_mask(Some(Box::new(Ascending(VOCAB_SIZE - 3))));
    let bound = engine.submit(bound).unwrap();
    let free = engine.submit(Request::new(prompt(20, 2), 5)).unwrap();
    assert_eq!(
        bound.wait().unwrap_err(),
        "grammar: expected a token that may come next, found none"
    );
    assert_eq!(
        free.wait().unwrap().ids(),
        alone(&model, &prompt(20, 2), 5, &Policy::Dense)
    );
    assert_eq!(engine.stats().failed, 1);
}

#[test]
fn biased_and_penalised_tokens_come_and_go() {
    let model = model();
    let engine = engine(&model, 100);
    let biased = Adjustments {
        bias: vec![(77, 100.0)],
        ..Adjustments::default()
    };
    let penalised = Adjustments {
        presence_penalty: 2.0e4,
        ..biased.clone()
    };
    let request = |adjustments| Request::new(prompt(20, 1), 4).with_adjustments(adjustments);
    let answers = answers(&engine, [request(biased), request(penalised)]);
    assert_eq!(answers[0].ids(), [77; 4]);
    let mut ids = answers[1].ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "no token comes twice");
}

#[test]
fn a_watched_answer_says_what_each_layer_read() {
    for model in models() {
        let engine = engine(&model, 100);
        let request = |watch| {
            let request = Request::new(prompt(60, 1), 4).with_policy(quest());
            request.with_watch(watch)
        };
        let dense = Request::new(prompt(60, 2), 4).with_watch(true);
        let found = answers(&engine, [request(true), request(false), dense]);
        assert_eq!(found[0].ids(), found[1].ids());
        assert!(found[0].tokens[0].reads.is_empty(), "it follows the prompt");
        for token in &found[0].tokens[1..] {
            let layers = token.reads.iter().map(|read| read.layer);
            assert_eq!(layers.collect::<Vec<_>>(), [0, 1]);
            for read in &token.reads {
                let pages = read.pages.as_ref().unwrap();
                // Three pages for each of two KV heads: the first and the newest, and one of its own.
                assert!((3..=4).contains(&pages.len()), "{pages:?}");
                assert_eq!((pages[0], *pages.last().unwrap()), (0, 7));
            }
        }
        assert!(found[1].tokens[1].reads.is_empty());
        assert_eq!(found[2].tokens[1].reads[1].pages, None);
    }
}

#[test]
fn bad_requests_are_refused_and_nothing_is_taken_on() {
    let model = model();
    let engine = engine_with(&model, 4, |config| config.with_queue(1));
    let refused = |request: Request, message: &str| {
        assert_eq!(engine.submit(request).unwrap_err().to_string(), message);
    };
    refused(
        Request::new(Vec::new(), 1),
        "prompt: expected at least one token, found none",
    );
    refused(
        Request::new(vec![3, 160], 1),
        "token ids: expected ids below the vocabulary size 160, found 160 at index 1",
    );
    refused(
        Request::new(vec![3; 500], 13),
        "context: expected at most 512 tokens, found a prompt of 500 and 13 new tokens",
    );
    refused(
        Request::new(vec![3; 30], 4),
        "KV cache: expected at most 32 tokens, found a prompt of 30 and 4 new tokens",
    );
    refused(
        Request::new(vec![3], 4).with_policy(Policy::quest(7)),
        "token budget: expected at least one page of 8 tokens, found 7",
    );
    refused(
        Request::new(vec![3], 4).with_sampling(SamplingConfig::new().with_top_p(0.0)),
        "top-p: expected a number above 0 and at most 1, found 0",
    );
    let adjustments = Adjustments {
        frequency_penalty: f32::NAN,
        ..Adjustments::default()
    };
    refused(
        Request::new(vec![3], 4).with_adjustments(adjustments),
        "frequency penalty: expected a finite number, found NaN",
    );
    let answer = engine.submit(Request::new(vec![3], 0)).unwrap();
    assert_eq!(answer.wait().unwrap().usage.new_tokens, 0);
    assert_eq!(engine.stats().prompt_tokens, 0);
}

#[test]
fn shutting_down_finishes_what_runs_and_refuses_the_rest() {
    let model = model();
    let engine = engine(&model, 100);
    let answer = engine.submit(Request::new(prompt(20, 1), 30)).unwrap();
    engine.shutdown();
    assert!(!engine.is_running());
    assert_eq!(answer.wait().unwrap().tokens.len(), 30);
    let error = engine.submit(Request::new(prompt(20, 1), 1)).unwrap_err();
    assert_eq!(error.to_string(), "the engine has ended");
}

#[test]
fn answers_outlive_the_handles() {
    let model = model();
    let answer = engine(&model, 100).submit(Request::new(prompt(20, 1), 30));
    assert_eq!(answer.unwrap().wait().unwrap().tokens.len(), 30);
}

/// Has no word for what comes next.
struct Panics;

impl TokenMask for Panics {
    fn allowed(&mut self) -> Result<Vec<u32>, String> {
        panic!("lost")
    }

    fn accept(&mut self, _id: u32) -> Result<(), String> {
        Ok(())
    }
}

#[test]
fn a_grammar_that_panics_fails_its_answer_only() {
    let model = model();
    let engine = engine(&model, 100);
    let bound = Request::new(prompt(20, 1), 5).with_mask(Some(Box::new(Panics)));
    let bound = engine.submit(bound).unwrap();
    let free = engine.submit(Request::new(prompt(20, 2), 5)).unwrap();
    assert_eq!(bound.wait().unwrap_err(), "lost");
    assert_eq!(free.wait().unwrap().tokens.len(), 5);
    assert!(engine.is_running());
}
