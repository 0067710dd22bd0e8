//! Answers that are JSON of a schema: which tokens may come next, by `llguidance`.

use std::{fmt, sync::Arc};

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::Value;

/// The vocabulary of a model, ready for grammars.
pub(crate) struct Grammars {
    factory: ParserFactory,
    stop_ids: Arc<[u32]>,
}

impl Grammars {
    /// `vocabulary` has the bytes of each token, those of special tokens empty. None where no token ends an
    /// answer, as a grammar could never be left then.
    pub(crate) fn new(vocabulary: &[Vec<u8>], stop_ids: &[u32]) -> Option<Self> {
        let info = TokRxInfo::new(u32::try_from(vocabulary.len()).ok()?, *stop_ids.first()?);
        let trie = TokTrie::from(&info, vocabulary);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).ok()?;
        factory.quiet();
        Some(Self {
            factory,
            stop_ids: stop_ids.into(),
        })
    }

    /// What may come where an answer is to be JSON of this schema; else what is wrong with the schema.
    pub(crate) fn mask(&self, schema: Value) -> Result<Mask, String> {
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let parser = self.factory.create_parser(grammar);
        let parser = parser.map_err(|error| one_line(&format!("{error:#}")))?;
        Ok(Mask {
            matcher: Matcher::new(Ok(parser)),
            stop_ids: self.stop_ids.clone(),
        })
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammars")
    }
}

/// Which tokens may come next in one answer.
pub struct Mask {
    matcher: Matcher,
    stop_ids: Arc<[u32]>,
}

impl Mask {
    /// The tokens that may come next: token `i` is bit `i % 32` of word `i / 32`. One that ends the answer
    /// may come once its JSON is whole.
    ///
    /// # Errors
    ///
    /// When the grammar cannot say.
    pub fn allowed(&mut self) -> Result<Vec<u32>, String> {
        let mask = self.matcher.compute_mask_or_eos();
        let mask = mask.map_err(|error| one_line(&error.to_string()))?;
        let mut words = mask.as_slice().to_vec();
        let is_set = |words: &[u32], id: u32| {
            words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
        };
        if self.stop_ids.iter().any(|id| is_set(&words, *id)) {
            for id in self.stop_ids.iter() {
                if let Some(word) = words.get_mut(*id as usize / 32) {
                    *word |= 1 << (id % 32);
                }
            }
        }
        Ok(words)
    }

    /// Takes note of a token that was chosen.
    ///
    /// # Errors
    ///
    /// When the token may not come there.
    pub fn accept(&mut self, id: u32) -> Result<(), String> {
        let accepted = self.matcher.consume_token(id);
        accepted.map_err(|error| one_line(&error.to_string()))
    }
}

impl Clone for Mask {
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            stop_ids: self.stop_ids.clone(),
        }
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mask")
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STOP: u32 = 256;
    const OTHER_STOP: u32 = 257;

    /// A token is a byte.
    fn mask(schema: Value) -> Mask {
        let mut vocabulary = (0..=255).map(|byte| vec![byte]).collect::<Vec<_>>();
        vocabulary.extend([Vec::new(), Vec::new()]);
        Grammars::new(&vocabulary, &[STOP, OTHER_STOP]).unwrap().mask(schema).unwrap()
    }

    fn may(mask: &mut Mask, id: u32) -> bool {
        mask.allowed().unwrap()[id as usize / 32] >> (id % 32) & 1 == 1
    }

    #[test]
    fn only_json_of_the_schema_may_come() {
        let schema = json!({
            "type": "object", "required": ["n"], "additionalProperties": false,
            "properties": { "n": { "type": "integer" } },
        });
        let mut mask = mask(schema);
        for byte in *b"{\"n\":4" {
            assert!(may(&mut mask, byte.into()), "{}", char::from(byte));
            assert!(!may(&mut mask, b'x'.into()) && !may(&mut mask, STOP));
            mask.accept(byte.into()).unwrap();
        }
        assert!(may(&mut mask, b'2'.into()) && !may(&mut mask, b'.'.into()));
        let mut fork = mask.clone();
        mask.accept(b'}'.into()).unwrap();
        assert!(may(&mut mask, STOP) && may(&mut mask, OTHER_STOP));
        assert!(!may(&mut mask, b'}'.into()));
        assert!(!may(&mut fork, STOP), "a clone goes its own way");
        assert!(fork.accept(b'x'.into()).is_err());
    }

    #[test]
    fn a_schema_that_makes_no_sense_is_refused() {
        let vocabulary = (0..=255).map(|byte| vec![byte]).chain([Vec::new()]).collect::<Vec<_>>();
        let grammars = Grammars::new(&vocabulary, &[STOP]).unwrap();
        let error = grammars.mask(json!({ "type": "anything" })).unwrap_err();
        assert!(!error.contains('\n') && !error.is_empty(), "{error}");
        assert!(Grammars::new(&vocabulary, &[]).is_none());
    }
}
