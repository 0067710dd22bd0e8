//! Masks that take long.

use std::time::Duration;

use serde_json::json;

use super::{is_beyond, tokenizers};
use crate::{
    grammar::{GrammarCompiler, GrammarLimits, GrammarSource},
    sampling::TokenMask,
};

#[test]
fn masks_of_a_hostile_grammar_end_with_an_error_or_the_answer() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    // Each is small, and ambiguous beyond what can be followed.
    for source in [
        GrammarSource::regex("((a{1,1000}){1,1000}){1,1000}"),
        GrammarSource::regex("(?:.{1,500}a.{1,500}b){400}"),
        GrammarSource::lark("start: \"a\"{100000} start{100000}"),
        GrammarSource::json_schema(
            json!({ "type": "string", "pattern": "^(a|b|ab)*c{1,90000}$", "maxLength": 90000 }),
        ),
        GrammarSource::lark("start: start start | \"a\" | \"a\" \"a\" | start start start"),
        GrammarSource::regex("(.*a.{20}|.*b.{19}|.*c.{21})*"),
        GrammarSource::lark("start: x{0,500}\nx: \"a\"? \"a\"? \"a\"? y\ny: x? \"a\" x? | \"a\""),
    ] {
        let Ok(grammar) = compiler.compile(&source) else {
            continue;
        };
        let mut matcher = grammar.matcher();
        let id = tokenizer.encode_continuation("a").unwrap()[0];
        for _ in 0..40 {
            if let Err(error) = matcher.allowed().and_then(|_| matcher.accept(id)) {
                assert!(!error.contains('\n') && error.len() < 500, "{error}");
                break;
            }
        }
    }
}

#[test]
fn a_mask_that_takes_too_long_ends_its_answer_only() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let grammar = compiler.compile(&GrammarSource::regex("[0-9]{3}")).unwrap();
    let mut hurried = grammar.matcher();
    hurried.hurry(Duration::ZERO);
    let error = hurried.allowed().unwrap_err();
    assert_eq!(
        error,
        "expected at most 0 ms for a token, found more: the grammar is too complex"
    );
    assert_eq!(hurried.allowed(), Err(error), "it stays so");
    assert!(!hurried.is_complete());
    assert!(grammar.matcher().allowed().is_ok());
    let limits = GrammarLimits {
        mask_time: Duration::ZERO,
        ..GrammarLimits::default()
    };
    let compiled = compiler
        .with_limits(limits)
        .compile(&GrammarSource::JsonObject);
    assert!(is_beyond(&compiled.unwrap_err()));
}
