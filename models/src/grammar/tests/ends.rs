//! Where an answer ends.

use super::{is_allowed, tokenizers};
use crate::{
    grammar::{GrammarCompiler, GrammarSource},
    sampling::TokenMask,
};

#[test]
fn an_answer_is_complete_when_nothing_may_follow() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let grammar = compiler
        .compile(&GrammarSource::regex("[0-9]{2,3}"))
        .unwrap();
    let mut matcher = grammar.matcher();
    let digit = tokenizer.encode_continuation("4").unwrap()[0];
    for (n, may_end) in [(1, false), (2, true)] {
        matcher.accept(digit).unwrap();
        assert_eq!((matcher.may_end(), n), (Ok(may_end), n));
        assert_eq!(is_allowed(&matcher.allowed().unwrap(), stop), may_end);
        assert!(!matcher.is_complete());
    }
    let mut other = matcher.clone();
    matcher.accept(digit).unwrap();
    assert!(matcher.is_complete(), "three digits are all");
    other.accept(stop).unwrap();
    assert!(other.is_complete(), "the end was chosen");
    assert!(
        !grammar.matcher().is_complete(),
        "another answer begins anew"
    );
}

#[test]
fn a_model_without_stop_tokens_ends_by_the_grammar() {
    let [(tokenizer, size, _), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[]).unwrap();
    let grammar = compiler.compile(&GrammarSource::JsonObject).unwrap();
    let mut matcher = grammar.matcher();
    for id in tokenizer.encode_continuation("{}").unwrap() {
        matcher.accept(id).unwrap();
    }
    assert!(matcher.is_complete());
}
