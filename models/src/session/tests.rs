//! Sessions over a model whose weights are the same in every run.

mod lossless;
mod prefill;
mod stopped;

use std::cell::RefCell;

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Device, Tensor, TensorData},
};
use quest_burn::{
    QuestConfig,
    policy::{PolicyConfig, PolicyKind},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    config::ModelConfig,
    generation::{Finish, GenerationConfig, LikelihoodMode, tests::config as tiny},
    model::CausalLm,
    sampling::SamplingConfig,
};

fn model() -> LocalModel {
    let model: CausalLm = tiny().init(&Device::default());
    let model = model.map(&mut Seeded(StdRng::seed_from_u64(7)));
    LocalModel::new(tiny(), model).with_page_size(8)
}

/// Weights that are the same in every run, with a peaky attention: those that the device draws depend on
/// the tests that run beside.
struct Seeded(StdRng);

impl ModuleMapper for Seeded {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let shape = tensor.dims();
            let values = (0..shape.iter().product()).map(|_| self.0.random_range(-1.0..1.0f32));
            let values = TensorData::new(values.collect::<Vec<_>>(), shape);
            let values = Tensor::<D>::from_data(values, &tensor.device());
            match D {
                1 => values * 0.25 + 1.0,
                _ => values * (2.5 / (shape[0] as f32).sqrt()),
            }
        })
    }
}

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i + 5) % 40).collect()
}

fn config(n: usize) -> GenerationConfig {
    GenerationConfig::new().with_max_new_tokens(n)
}

fn generate(session: &mut Session, ids: &[u32], n: usize) -> Vec<u32> {
    let new = session.generate_ids(ids, config(n)).unwrap();
    new.map(Result::unwrap).collect()
}

#[test]
fn a_generation_in_parts_is_the_generation_in_one() {
    let model = model();
    let mut whole = model.session().unwrap();
    let expected = generate(&mut whole, &ids(21), 12);
    let mut session = model.session().unwrap();
    session.prefill(&ids(21)[..9], 4, &mut |_| ()).unwrap();
    let mut new = generate(&mut session, &ids(21)[9..], 5);
    assert_eq!(session.len(), 26);
    assert_eq!(
        session.cache().lengths(),
        [25],
        "the newest token is not fed yet"
    );
    new.extend(generate(&mut session, &[], 7));
    assert_eq!(new, expected);
    assert_eq!(session.ids(), whole.ids());
    assert_eq!(session.statistics().timings.decode_tokens, 4 + 6);
}

#[test]
fn after_feeding_a_generation_without_ids_goes_on_from_the_last_token() {
    let model = model();
    let expected = generate(&mut model.session().unwrap(), &ids(17), 4);
    let mut session = model.session().unwrap();
    session.feed(&ids(17)).unwrap();
    assert_eq!(session.most_probable().unwrap(), expected[0]);
    assert_eq!(generate(&mut session, &[], 4), expected);
    assert_eq!(session.ids()[..17], ids(17));
}

#[test]
fn a_stream_that_is_dropped_leaves_what_it_gave_out() {
    let model = model();
    let expected = generate(&mut model.session().unwrap(), &ids(10), 9);
    let mut session = model.session().unwrap();
    let some = session.generate_ids(&ids(10), config(9)).unwrap().take(3);
    let some = some.map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(session.ids()[10..], some);
    assert_eq!([some, generate(&mut session, &[], 6)].concat(), expected);
}

#[test]
fn aligning_keeps_the_common_beginning_and_the_rest_is_as_if_it_were_new() {
    let model = model();
    let mut session = model.session().unwrap();
    generate(&mut session, &ids(30), 6);
    let mut other = ids(25);
    other.extend([39, 38, 37]);
    let kept = session.align(&other).unwrap();
    assert_eq!((kept, session.ids()), (25, &other[..25]));
    let expected = generate(&mut model.session().unwrap(), &other, 8);
    assert_eq!(generate(&mut session, &other[kept..], 8), expected);
    // All of it is there already: one token is fed again.
    let kept = session.align(&other).unwrap();
    assert_eq!(kept, 27);
    assert_eq!(generate(&mut session, &other[kept..], 8), expected);
    assert_eq!(session.align(&[]).unwrap(), 0);
    assert!(session.is_empty());
}

#[test]
fn aligning_with_a_token_that_was_not_fed_yet_keeps_it() {
    let model = model();
    let mut session = model.session().unwrap();
    let answer = generate(&mut session, &ids(12), 3);
    let mut next = [ids(12), answer].concat();
    next.extend([7, 8]);
    let kept = session.align(&next).unwrap();
    assert_eq!((kept, session.cache().lengths()[0]), (15, 14));
    let expected = generate(&mut model.session().unwrap(), &next, 4);
    assert_eq!(generate(&mut session, &next[kept..], 4), expected);
}

#[test]
fn forks_go_on_by_themselves() {
    let model = model();
    let mut session = model.session().unwrap();
    session.feed(&ids(19)).unwrap();
    let mut fork = session.fork();
    assert_eq!(fork.logits().unwrap(), session.logits().unwrap());
    let [a, b] = [&[1, 2, 3][..], &[4]].map(|tail| {
        let whole = [ids(19), tail.to_vec()].concat();
        generate(&mut model.session().unwrap(), &whole, 9)
    });
    assert_eq!(generate(&mut fork, &[1, 2, 3], 9), a);
    assert_eq!(generate(&mut session, &[4], 9), b);
}

#[test]
fn a_policy_that_frees_pages_bounds_the_memory_of_a_session() {
    let model = model();
    let answer = |kind: &str| {
        let quest = QuestConfig::new()
            .with_token_budget(16)
            .with_sink_pages(0)
            .with_dense_layers(0);
        let policy = PolicyConfig::new(kind.parse().unwrap()).with_quest(quest);
        let mut session = model.session().unwrap();
        session.set_policy(policy.init(8).unwrap().into());
        let answer = generate(&mut session, &ids(12), 100);
        assert_eq!(session.capacity(), 128);
        (answer, session.cache().config().n_pages)
    };
    let (kept, pages) = answer("raas");
    assert_eq!(pages, 14, "reserved for 112 tokens");
    let (freed, pages) = answer("raas:free=true");
    assert_eq!(freed, kept);
    assert!(pages <= 9, "{pages} pages");
}

#[test]
fn aligning_what_a_policy_has_freed_keeps_what_is_whole() {
    let model = model();
    let policy = || {
        let quest = QuestConfig::new()
            .with_token_budget(16)
            .with_sink_pages(0)
            .with_dense_layers(0);
        let policy = PolicyConfig::new("raas:free=true".parse().unwrap()).with_quest(quest);
        policy.init(8).unwrap()
    };
    let mut session = model.session().unwrap();
    session.set_policy(policy().into());
    let answer = generate(&mut session, &ids(12), 90);
    let mut next = [ids(12), answer].concat();
    next.extend([7, 8]);
    let kept = session.align(&next).unwrap();
    assert!((8..100).contains(&kept), "{kept} tokens");
    assert_eq!(session.ids(), &next[..kept]);
    let mut fresh = model.session().unwrap();
    fresh.set_policy(policy().into());
    let expected = generate(&mut fresh, &next, 8);
    assert_eq!(generate(&mut session, &next[kept..], 8), expected);
}

#[test]
fn a_session_goes_back_to_any_length() {
    let model = model();
    let quest = QuestConfig::kv_group()
        .with_token_budget(16)
        .with_dense_layers(0);
    // In the middle of a page, at its end, and behind it.
    for prefill in [43, 48, 49] {
        let decode = |session: &mut Session, kind: PolicyKind| {
            let policy = PolicyConfig::new(kind).with_quest(quest.clone());
            let policy = policy.with_rope(Some(model.config().rope.clone()));
            session.set_policy(policy.init(8).unwrap().into());
            let mut logits = Vec::new();
            for &id in &ids(60)[prefill..] {
                session.decode(id).unwrap();
                logits.push(session.logits().unwrap());
            }
            logits
        };
        let mut session = model.session().unwrap();
        session.feed(&ids(60)[..prefill]).unwrap();
        for &kind in PolicyKind::ALL.iter().chain(PolicyKind::ALL) {
            let mut fresh = model.session().unwrap();
            fresh.feed(&ids(60)[..prefill]).unwrap();
            session.truncate(prefill).unwrap();
            assert_eq!(session.ids(), &ids(60)[..prefill]);
            assert_eq!(
                decode(&mut session, kind),
                decode(&mut fresh, kind),
                "{kind}"
            );
        }
    }
    let mut session = model.session().unwrap();
    session.feed(&ids(9)).unwrap();
    session.truncate(9).unwrap();
    assert!(matches!(session.logits(), Err(GenerateError::NothingFed)));
}

#[test]
fn a_session_takes_memory_as_it_grows_and_no_more_than_the_context() {
    let model = model().with_context(60);
    let mut session = model.session().unwrap();
    let small = session.statistics().cache_bytes;
    session.feed(&ids(50)).unwrap();
    assert_eq!(
        (session.statistics().cache_bytes, session.capacity()),
        (7 * small, 60)
    );
    let error = session.feed(&ids(11)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "context: expected at most 60 tokens, found 61"
    );
    let error = session.generate_ids(&[1], config(10)).err().unwrap();
    assert!(error.is_bad_request());
    assert!(matches!(
        error,
        GenerateError::Context {
            prompt: 51,
            new_tokens: 10,
            limit: 60
        }
    ));
    assert_eq!(
        (session.len(), session.cache().lengths()[0]),
        (50, 50),
        "nothing was done"
    );
    assert_eq!(generate(&mut session, &[1], 9).len(), 9);
}

#[test]
fn a_session_of_a_fixed_size_refuses_what_has_no_room() {
    let mut session = model().session_for(24).unwrap();
    let error = session.generate_ids(&ids(20), config(6)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "KV cache: expected at most 24 tokens, found a prompt of 20 and 6 new tokens"
    );
    assert!(session.is_empty());
    assert_eq!(generate(&mut session, &ids(20), 5).len(), 5);
    assert_eq!(session.capacity(), 24);
}

#[test]
fn requests_that_make_no_sense_leave_the_session_as_it_was() {
    let mut session = model().session().unwrap();
    assert!(matches!(session.feed(&[]), Err(GenerateError::EmptyPrompt)));
    assert!(matches!(
        session.generate_ids(&[], config(3)).err(),
        Some(GenerateError::EmptyPrompt)
    ));
    assert!(matches!(session.logits(), Err(GenerateError::NothingFed)));
    assert!(matches!(
        session.generate("text", config(3)).err(),
        Some(GenerateError::NoTokenizer)
    ));
    session.feed(&ids(10)).unwrap();
    for wrong in [
        session.feed(&[1, 40]),
        session.decode(40),
        session.truncate(11),
    ] {
        assert!(wrong.unwrap_err().is_bad_request());
    }
    assert!(session.prefill(&[1], 0, &mut |_| ()).is_err());
    assert_eq!(
        (session.ids(), session.cache().lengths()[0]),
        (&ids(10)[..], 10)
    );
}

#[test]
fn the_checkpoint_s_stop_tokens_end_a_generation_unless_told_otherwise() {
    let model: CausalLm = tiny().init(&Device::default());
    let never = LocalModel::new(tiny(), model.clone());
    let all = generate(&mut never.session().unwrap(), &ids(9), 8);
    let first = all.iter().position(|id| *id == all[3]).unwrap();
    let config = ModelConfig {
        stop_token_ids: vec![all[3]],
        ..tiny()
    };
    let mut session = LocalModel::new(config, model).session().unwrap();
    let mut stream = session.generate_ids(&ids(9), self::config(8)).unwrap();
    assert_eq!(stream.by_ref().count(), first + 1);
    assert_eq!(stream.finish(), Some(Finish::Stop));
    drop(stream);
    session.truncate(0).unwrap();
    let none = self::config(8).with_stop_ids(Some(Vec::new()));
    assert_eq!(session.generate_ids(&ids(9), none).unwrap().count(), 8);
}

#[test]
fn likelihoods_go_on_from_what_the_session_holds() {
    let model = model();
    let score = |session: &mut Session, ids: &[u32], mode| {
        session.likelihoods(ids, mode, &mut |_| ()).unwrap()
    };
    let mut whole = model.session().unwrap();
    let all = score(
        &mut whole,
        &ids(40),
        LikelihoodMode::Decode {
            prefill: 26,
            chunk: 512,
        },
    );
    assert_eq!(whole.len(), 39);
    let mut session = model.session().unwrap();
    session.feed(&ids(25)).unwrap();
    let rest = score(
        &mut session,
        &ids(40)[25..],
        LikelihoodMode::Decode {
            prefill: 1,
            chunk: 512,
        },
    );
    assert_eq!(rest.len(), all.len());
    // The first hidden state is that of one row, not of 26.
    let is_close = |(rest, all): (&f32, &f32)| (rest - all).abs() <= 1e-5 * all;
    assert!(rest.iter().zip(&all).all(is_close), "{rest:?}, {all:?}");
    assert_eq!(session.ids(), &ids(39)[..]);
}

#[test]
fn statistics_say_how_much_of_the_cache_is_read() {
    let quest = QuestConfig::kv_group().with_token_budget(16);
    let policy = quest.with_dense_layers(1).init().unwrap();
    let mut session = model().with_policy(Arc::new(policy)).session().unwrap();
    session.feed(&ids(64)).unwrap();
    let statistics = session.statistics();
    // Everything in the first of two layers, 16 of 64 tokens in the second.
    assert_eq!(statistics.share_read, Some(0.625));
    assert_eq!((statistics.tokens, statistics.pages), (64, 8));
}

#[test]
fn progress_counts_the_tokens_of_the_prompt() {
    let model = model();
    let mut session = model.session().unwrap();
    let seen = RefCell::new(Vec::new());
    session
        .prefill(&ids(10), 4, &mut |done| seen.borrow_mut().push(done))
        .unwrap();
    let chunks = config(2).with_prefill_chunk(8);
    let stream = session.generate_ids(&ids(17), chunks).unwrap();
    assert_eq!(
        stream
            .on_prefill(|done| seen.borrow_mut().push(done))
            .count(),
        2
    );
    assert_eq!(seen.into_inner(), [4, 8, 10, 8, 16, 17]);
}

fn shipped() -> LocalModel {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/quest-passkey");
    LocalModel::open(path)
        .unwrap()
        .load(&Device::default())
        .unwrap()
}

#[test]
fn new_text_goes_on_from_the_text_before_it() {
    let model = shipped();
    let mut session = model.session().unwrap();
    let before = "The grass is green. The sky";
    let text = session.generate(before, config(12)).unwrap();
    let text = text.collect::<Result<String, _>>().unwrap();
    let all = model.tokenizer().unwrap().decode(session.ids()).unwrap();
    assert_eq!(format!("{before}{text}"), all);
    assert!(text.starts_with(" is blue."), "{text}");
    // A second text has no token of a beginning.
    let begin = model.tokenizer().unwrap().encode("").unwrap();
    let length = session.len();
    session
        .generate(" The sun", config(1))
        .unwrap()
        .for_each(drop);
    assert!(begin.is_empty() || session.ids()[length] != begin[0]);
}

#[test]
fn a_stop_string_ends_a_text_before_it() {
    let mut session = shipped().session().unwrap();
    let stop = config(30).with_stop_strings(vec![".".into(), "never".into()]);
    let mut stream = session
        .generate("The grass is green. The sky", stop)
        .unwrap();
    let text = stream.by_ref().collect::<Result<String, _>>().unwrap();
    assert_eq!(text, " is blue");
    assert_eq!(stream.finish(), Some(Finish::Stop));
    assert!(stream.next().is_none());
    assert!(stream.new_ids().len() < 30);
}
