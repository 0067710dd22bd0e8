//! Sources that were compiled before.

use super::{takes, tokenizers};
use crate::grammar::{GrammarCompiler, GrammarLimits, GrammarSource};

#[test]
fn sources_that_come_again_are_not_compiled_again() {
    let [(tokenizer, size, stop), _] = tokenizers();
    let compiler = GrammarCompiler::new(&tokenizer, size, &[stop]).unwrap();
    let source = |i: usize| GrammarSource::regex(format!("[0-9]{{{}}}", i + 1));
    for i in 0..40 {
        assert!(compiler.compile(&source(i)).is_ok());
        // It is used again and again, and stays.
        let first = compiler.compile(&source(0)).unwrap();
        assert!(takes(&tokenizer, &first, "7") && !takes(&tokenizer, &first, "77"));
    }
    assert!(compiler.compile(&GrammarSource::regex("(")).is_err());
    assert_eq!(compiler.cache.len(), 16);
    assert!(compiler.cache.get(&source(0)).is_some());
    assert!(compiler.cache.get(&source(39)).is_some());
    assert!(compiler.cache.get(&source(1)).is_none());
    assert!(
        compiler.clone().cache.get(&source(0)).is_some(),
        "clones share it"
    );
    let other = compiler.with_limits(GrammarLimits::default());
    assert_eq!(other.cache.len(), 0, "other limits compile anew");
}
