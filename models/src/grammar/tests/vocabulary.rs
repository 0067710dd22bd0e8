//! Tokens as bytes.

use super::{is_allowed, tokenizers};
use crate::{
    grammar::{GrammarCompiler, GrammarSource, vocabulary},
    sampling::TokenMask,
};

#[test]
fn tokens_have_the_bytes_that_they_are_decoded_to() {
    for (tokenizer, size, _) in tokenizers() {
        let tokens = vocabulary::token_bytes(&tokenizer, size + 3).unwrap();
        assert_eq!(tokens.len(), size + 3);
        assert!(tokens[size..].iter().all(Vec::is_empty));
        let special = tokenizer.added_tokens();
        let anchor = tokenizer.encode_continuation("a").unwrap();
        let before = tokenizer.decode(&anchor).unwrap();
        for (id, bytes) in (0..size as u32).zip(&tokens) {
            if special
                .iter()
                .any(|token| token.id == id && token.is_special)
            {
                assert_eq!(bytes[0], 0xff);
                continue;
            }
            let text = tokenizer.decode(&[&anchor[..], &[id]].concat()).unwrap();
            let text = text.strip_prefix(&before).unwrap();
            assert_eq!(String::from_utf8_lossy(bytes), text, "{id}");
        }
    }
}

#[test]
fn special_tokens_are_no_text() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let grammar = compiler.compile(&GrammarSource::regex("(?s:.)*")).unwrap();
    let words = grammar.matcher().allowed().unwrap();
    let begin = tokenizer.id("<s>").unwrap();
    assert!(!is_allowed(&words, begin) && is_allowed(&words, stop));
    assert!(is_allowed(&words, tokenizer.id("<").unwrap()));
}
