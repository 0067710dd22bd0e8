//! Answers of recorded steps are those of plain steps and of the model alone, whoever comes and goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quest_burn::{cache::KvStorage, decode::DecodeGraph};
use quest_burn_engine::{Answer, Engine, EngineConfig, Event, Finished, Policy, Request, Stats};
use quest_burn_models::{local::LocalModel, sampling::SamplingConfig};
use quest_burn_tests::{
    devices::devices,
    small_model::{self, PAGE_SIZE, model, prompt},
};

/// A recording is not valid if another thread allocates on the device meanwhile: tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small model on each device to test, with keys and values in each form. A driver that binds few buffers at a time
/// has no kernels for those in 8 bits, and would take minutes for the tensor operations.
fn models() -> impl Iterator<Item = LocalModel> {
    devices().into_iter().flat_map(|device| {
        let model = model(&device.device);
        let forms = match device.name.as_str() {
            "wgpu" => &KvStorage::ALL[..1],
            _ => &KvStorage::ALL[..],
        };
        let forms = forms.iter();
        forms.map(move |&storage| model.clone().with_kv_storage(storage))
    })
}

fn quest() -> Policy {
    Policy::quest(3 * PAGE_SIZE)
}

/// What a session gives that has the model for itself.
fn alone(model: &LocalModel, ids: &[u32], new_tokens: usize, policy: &Policy) -> Vec<u32> {
    small_model::alone(model, ids, new_tokens, policy.init().unwrap())
}

fn engine(model: &LocalModel, pages: usize, is_recording: bool) -> Engine {
    let config = EngineConfig::new(pages * PAGE_SIZE).with_recording(is_recording);
    Engine::start(model.clone(), config).unwrap()
}

/// Hands requests in and waits for all answers.
fn answers(engine: &Engine, requests: impl IntoIterator<Item = Request>) -> Vec<Finished> {
    let submitted = requests.into_iter().map(|r| engine.submit(r).unwrap());
    let submitted = submitted.collect::<Vec<_>>();
    submitted.into_iter().map(|a| a.wait().unwrap()).collect()
}

/// Whether steps are recorded on the device of a model, over a cache such as its own.
fn records(model: &LocalModel) -> bool {
    let cache = model.cache(1, PAGE_SIZE);
    let cache = cache.init(&model.device(), model.dtype()).unwrap();
    DecodeGraph::records(&cache)
}

#[track_caller]
fn assert_recorded(model: &LocalModel, stats: &Stats) {
    println!("{:?}: {stats:?}", model.device());
    assert_eq!(stats.recorded_steps > stats.plain_steps, records(model));
    assert!(records(model) || stats.recorded_steps == 0);
    assert!(stats.plain_steps > 0, "the first steps are");
    assert_eq!(stats.failed, 0);
}

/// Requests of several lengths that begin alike or not; one grows beyond what its recording has room for.
fn cases() -> Vec<(Vec<u32>, usize, Policy)> {
    let document = prompt(40, 1);
    let begun = |own: usize, seed: u32| [document.clone(), prompt(own, seed)].concat();
    vec![
        (prompt(244, 5), 40, Policy::Dense),
        (begun(20, 2), 30, Policy::Dense),
        (begun(17, 3), 35, quest()),
        // In the middle of a page that the second one reads.
        (begun(20, 2)[..53].to_vec(), 25, Policy::Dense),
        (prompt(9, 4), 40, quest()),
        (begun(30, 6), 12, Policy::Dense),
        (prompt(3, 7), 28, Policy::Dense),
    ]
}

#[test]
fn answers_are_those_of_the_model_alone_whoever_comes_and_goes() {
    let _turn = turn();
    for model in models() {
        let expected = cases();
        let expected = expected.iter().map(|(ids, n, p)| alone(&model, ids, *n, p));
        let expected = expected.collect::<Vec<_>>();
        let engine = engine(&model, 160, true);
        let mut running = Vec::new();
        let mut found = vec![Vec::new(); expected.len()];
        let mut cases = cases().into_iter().enumerate();
        loop {
            if let Some((place, (ids, n, policy))) = cases.next() {
                let request = Request::new(ids, n).with_policy(policy);
                running.push((place, engine.submit(request).unwrap()));
            } else if running.is_empty() {
                break;
            }
            // A few tokens of each before the next one comes.
            for _ in 0..4 {
                running.retain_mut(|(place, answer)| match answer.blocking_next() {
                    Some(Event::Token(token)) => {
                        found[*place].push(token.id);
                        true
                    }
                    Some(Event::Finished { .. }) => false,
                    other => panic!("{other:?}"),
                });
            }
        }
        assert_eq!(found, expected);
        engine.shutdown();
        assert_recorded(&model, &engine.stats());
        assert_eq!(engine.stats().used_pages(), 0);
    }
}

#[test]
fn drawn_tokens_and_probabilities_are_those_of_plain_steps() {
    let _turn = turn();
    for model in models() {
        let request = |i: u32| {
            let sampling = SamplingConfig::new().with_temperature(0.8 * f64::from(i % 2));
            let request = Request::new(prompt(20 + i as usize, i), 20 + 3 * i as usize);
            request
                .with_sampling(sampling.with_seed(u64::from(i)))
                .with_policy([Policy::Dense, quest()][i as usize / 2 % 2].clone())
                .with_logprobs((i == 1).then_some(2))
        };
        let [plain, recorded] = [false, true].map(|is_on| {
            let engine = engine(&model, 160, is_on);
            let answers = answers(&engine, (0..5).map(request));
            engine.shutdown();
            (answers, engine.stats())
        });
        assert_eq!(plain.1.recorded_steps, 0);
        assert_recorded(&model, &recorded.1);
        for (recorded, plain) in recorded.0.iter().zip(&plain.0) {
            assert_eq!(recorded.ids(), plain.ids());
            for (recorded, plain) in recorded.tokens.iter().zip(&plain.tokens) {
                assert_eq!(recorded.logprob.is_some(), plain.logprob.is_some());
                let [recorded, plain] = [recorded, plain].map(|t| t.logprob.unwrap_or(0.0));
                assert!((recorded - plain).abs() < 1e-4, "{recorded}, {plain}");
            }
        }
    }
}

#[test]
fn steps_of_those_who_watch_are_plain() {
    let _turn = turn();
    for model in models() {
        let engine = engine(&model, 160, true);
        let request = Request::new(prompt(40, 1), 12).with_policy(quest());
        let answer = answers(&engine, [request.with_watch(true)]).remove(0);
        assert!(answer.tokens.iter().skip(1).all(|t| !t.reads.is_empty()));
        let stats = engine.stats();
        assert_eq!((stats.recorded_steps, stats.plain_steps), (0, 11));
    }
}

#[test]
fn answers_that_gave_their_pages_up_are_the_same_in_recorded_steps() {
    let _turn = turn();
    for model in models() {
        let cases = [(60, 1), (50, 2), (40, 3)].map(|(n, seed)| prompt(n, seed));
        let expected = cases.each_ref().map(|ids| alone(&model, ids, 60, &quest()));
        // Room for the prompts, and for one of the three at its full length: any two that meet get into each
        // other's way, however late one comes.
        let engine = engine(&model, 22, true);
        let requests = cases.map(|ids| Request::new(ids, 60).with_policy(quest()));
        let found = answers(&engine, requests);
        assert_eq!(found.iter().map(|a| a.ids()).collect::<Vec<_>>(), expected);
        let stats = engine.stats();
        assert!(stats.preemptions > 0, "{stats:?}");
        assert_recorded(&model, &stats);
    }
}

#[test]
fn answers_that_nobody_waits_for_leave_those_of_others_as_they_are() {
    let _turn = turn();
    for model in models() {
        // Tokens that are taken of each; who has asked for more of them goes away then.
        let clients = [
            (prompt(30, 1), 25, Policy::Dense),
            (prompt(45, 2), 10, Policy::Dense),
            (prompt(20, 3), 60, quest()),
            (prompt(33, 4), 60, Policy::Dense),
            (prompt(28, 5), 14, quest()),
        ];
        let expected = clients.each_ref();
        let expected = expected.map(|(ids, taken, policy)| alone(&model, ids, *taken, policy));
        let engine = engine(&model, 160, true);
        let mut running = clients.map(|(ids, taken, policy)| {
            let asked = if taken == 60 { 60 } else { 200 };
            let request = Request::new(ids, asked).with_policy(policy);
            (Some(engine.submit(request).unwrap()), taken, Vec::new())
        });
        for n in 1..=60 {
            for (answer, taken, found) in &mut running {
                match answer.as_mut().map(Answer::blocking_next) {
                    Some(Some(Event::Token(token))) => found.push(token.id),
                    None => (),
                    other => panic!("{other:?}"),
                }
                if n == *taken {
                    *answer = None;
                }
            }
        }
        for ((_, _, found), expected) in running.iter().zip(&expected) {
            assert_eq!(found, expected);
        }
        engine.shutdown();
        let stats = engine.stats();
        assert_recorded(&model, &stats);
        assert_eq!((stats.cancelled, stats.finished), (3, 2));
        assert_eq!(stats.used_pages(), 0);
    }
}

#[test]
fn recordings_are_gone_with_the_engine() {
    let _turn = turn();
    for model in models() {
        let shared = model.shared_model();
        let before = Arc::strong_count(&shared);
        let engine = engine(&model, 160, true);
        let answer = answers(&engine, [Request::new(prompt(20, 1), 20)]).remove(0);
        assert_eq!(answer.tokens.len(), 20);
        assert_recorded(&model, &engine.stats());
        engine.shutdown();
        drop(engine);
        assert_eq!(Arc::strong_count(&shared), before);
    }
}
