//! Answers that follow a grammar, among others that do not.

mod common;

use std::sync::Arc;

use burn::tensor::{DType, Device};
use common::{PAGE_SIZE, answers_together, engine_with, prompt, quest};
use quest_burn::policy::DensePolicy;
use quest_burn_engine::{Engine, FinishReason, Finished, Policy, Request};
use quest_burn_models::{
    generation::{Finish, GenerationConfig},
    grammar::{Grammar, GrammarSource},
    local::LocalModel,
    sampling::{SamplingConfig, TokenMask},
};
use quest_burn_tests::{
    checkpoint::{self, CheckpointSpec},
    tokenizer::{self, BYTE_VOCABULARY},
};

/// Random weights and tokens that are bytes.
fn model() -> LocalModel {
    let spec = CheckpointSpec {
        n_layers: 2,
        d_model: 32,
        d_ff: 48,
        max_positions: 512,
        vocab_size: BYTE_VOCABULARY,
        ..CheckpointSpec::default()
    };
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), &spec);
    tokenizer::write_bytes(dir.path());
    let model = LocalModel::open(dir.path()).unwrap().page_size(PAGE_SIZE);
    let model = model.dtype(DType::F32).load(&Device::default()).unwrap();
    model.with_policy(Arc::new(DensePolicy))
}

fn sampling(seed: u64) -> SamplingConfig {
    SamplingConfig::new().with_temperature(1.0).with_seed(seed)
}

fn grammar(model: &LocalModel, source: &GrammarSource) -> Grammar {
    model.grammar_compiler().unwrap().compile(source).unwrap()
}

fn schema() -> GrammarSource {
    let schema = r#"{
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 6 },
            "n": { "type": "integer", "minimum": 0, "maximum": 999 }
        },
        "required": ["name", "n"],
        "additionalProperties": false
    }"#;
    GrammarSource::json_schema_text(schema).unwrap()
}

/// What a session gives under a grammar that has the model for itself.
fn alone(
    model: &LocalModel,
    ids: &[u32],
    seed: u64,
    grammar: Option<&Grammar>,
) -> (Vec<u32>, Finish) {
    let mut session = model.session().unwrap();
    let config = GenerationConfig::new()
        .with_max_new_tokens(120)
        .with_sampling(sampling(seed))
        .with_stop_ids(Some(model.stop_ids().to_vec()));
    let mut stream = session.generate_ids(ids, config).unwrap();
    if let Some(grammar) = grammar {
        stream = stream.with_mask(grammar.matcher()).unwrap();
    }
    let ids = stream.by_ref().collect::<Result<_, _>>().unwrap();
    (ids, stream.finish().unwrap())
}

fn request(model: &LocalModel, ids: Vec<u32>, seed: u64, grammar: Option<&Grammar>) -> Request {
    let mask = grammar.map(|grammar| Box::new(grammar.matcher()) as _);
    Request::new(ids, 120)
        .with_stop_ids(model.stop_ids().to_vec())
        .with_sampling(sampling(seed))
        .with_mask(mask)
}

fn engine(model: &LocalModel, pages: usize) -> Engine {
    engine_with(model, pages, |config| config)
}

fn text(model: &LocalModel, ids: &[u32]) -> String {
    model.tokenizer().unwrap().decode(ids).unwrap()
}

/// The answers are the same as alone, and each that ended is what its grammar says.
fn check(model: &LocalModel, pages: usize) {
    let grammars = [
        Some(grammar(model, &schema())),
        None,
        Some(grammar(model, &GrammarSource::regex("[a-f]{3}-[0-9]{2,4}"))),
    ];
    let cases = (0..12u32).map(|i| {
        let grammar = grammars[i as usize % 3].as_ref();
        (prompt(10 + 7 * i as usize, i), u64::from(i / 3), grammar)
    });
    let cases = cases.collect::<Vec<_>>();
    let requests = cases
        .iter()
        .map(|(ids, seed, grammar)| request(model, ids.clone(), *seed, *grammar));
    let found = answers_together(&engine(model, pages), requests);
    let mut ended = 0;
    for (i, ((ids, seed, grammar), answer)) in cases.iter().zip(&found).enumerate() {
        let (expected, finish) = alone(model, ids, *seed, *grammar);
        assert_eq!(answer.ids(), expected, "{i}");
        let is_stop = answer.reason == FinishReason::Stop;
        assert_eq!(is_stop, finish == Finish::Stop, "{i}");
        if !is_stop {
            continue;
        }
        let Some(grammar) = grammar else {
            continue;
        };
        // Another matcher takes the answer whole.
        let mut matcher = grammar.matcher();
        for id in answer.ids() {
            matcher.accept(id).unwrap();
        }
        assert!(matcher.is_complete(), "{}", text(model, &answer.ids()));
        ended += 1;
    }
    assert!(ended >= 4, "{ended} ended");
}

#[test]
fn answers_under_a_grammar_are_the_same_in_a_batch_as_alone() {
    check(&model(), 400);
}

#[test]
fn an_answer_that_gives_its_pages_up_goes_on_in_its_grammar() {
    // Room for about three of the twelve.
    check(&model(), 60);
}

#[test]
fn an_answer_ends_with_its_grammar_and_has_no_stop_token() {
    let model = model();
    let grammar = grammar(&model, &GrammarSource::regex("[0-9]{4}"));
    let engine = engine(&model, 100);
    for policy in [Policy::Dense, quest()] {
        let request = request(&model, prompt(30, 1), 1, Some(&grammar)).with_policy(policy);
        let answer: Finished = engine.submit(request).unwrap().wait().unwrap();
        assert_eq!(answer.reason, FinishReason::Stop);
        let text = text(&model, &answer.ids());
        assert_eq!((text.len(), answer.usage.new_tokens), (4, 4), "{text}");
    }
}

#[test]
fn log_probabilities_under_a_grammar_are_the_model_s() {
    let model = model();
    let grammar = grammar(&model, &GrammarSource::regex("[0-9]{4}"));
    let engine = engine(&model, 100);
    let request = request(&model, prompt(30, 1), 1, Some(&grammar)).with_logprobs(Some(3));
    let answer = engine.submit(request).unwrap().wait().unwrap();
    for token in &answer.tokens {
        assert_eq!(token.top.len(), 3);
        assert!(token.logprob.unwrap() <= token.top[0].1);
    }
}
