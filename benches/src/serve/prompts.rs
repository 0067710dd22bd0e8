//! Prompts of about a given number of tokens.

use std::{fs, path::Path};

use super::client::Client;
use crate::BenchError;

/// Where no other text is given.
const WORDS: &str = "The river runs past an old tower and under a bridge of stone to the cold sea, where nobody \
                     has been since the last ships went away in autumn and took the keeper of the light along.";
/// Words that are counted to know how many tokens a word has.
const SAMPLE: usize = 2000;
/// What a word of English has in most vocabularies.
const TOKENS_PER_WORD: f64 = 1.4;

/// Cuts prompts out of a text.
pub(super) struct Prompts {
    words: Vec<String>,
    tokens_per_word: f64,
    /// Whether all prompts begin alike.
    are_shared: bool,
}

impl Prompts {
    /// Of the words of a file, or of a few of this program's.
    pub(super) fn new(
        text: Option<&Path>,
        are_shared: bool,
        client: &Client,
    ) -> Result<Self, BenchError> {
        let text = match text {
            None => WORDS.to_owned(),
            Some(path) => fs::read_to_string(path).map_err(|error| BenchError::Option {
                option: "--text",
                expected: "a text file".into(),
                found: format!("{}: {error}", path.display()),
            })?,
        };
        let words = text.split_whitespace().map(str::to_owned);
        let mut prompts = Self {
            words: words.collect(),
            tokens_per_word: 1.0,
            are_shared,
        };
        if prompts.words.is_empty() {
            return Err(BenchError::Option {
                option: "--text",
                expected: "a text with words".into(),
                found: "none".into(),
            });
        }
        let counted = client.count(&prompts.get(0, SAMPLE))?;
        prompts.tokens_per_word = match counted {
            Some(tokens) => tokens as f64 / SAMPLE as f64,
            None => TOKENS_PER_WORD,
        };
        Ok(prompts)
    }

    /// A prompt of about so many tokens, another one for each number.
    pub(super) fn get(&self, number: usize, tokens: usize) -> String {
        let n = ((tokens as f64 / self.tokens_per_word) as usize).max(2);
        // Primes, so that passages begin anywhere.
        let first = match self.are_shared {
            true => 0,
            false => number.wrapping_mul(7919),
        };
        let words = (0..n - 1).map(|i| &*self.words[first.wrapping_add(i) % self.words.len()]);
        let mut words = words.collect::<Vec<_>>();
        // No two are the same, and only shared ones are so from their beginnings.
        let number = number.to_string();
        match self.are_shared {
            true => words.push(&number),
            false => words.insert(0, &number),
        }
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_their_length_and_differ() {
        let mut prompts = Prompts {
            words: WORDS.split_whitespace().map(str::to_owned).collect(),
            tokens_per_word: 2.0,
            are_shared: false,
        };
        let words = |text: &str| text.split(' ').count();
        let [a, b] = [prompts.get(3, 400), prompts.get(4, 400)];
        assert_eq!((words(&a), words(&b)), (200, 200));
        assert!(a.starts_with("3 ") && b.starts_with("4 "));
        prompts.are_shared = true;
        let [a, b] = [prompts.get(3, 400), prompts.get(4, 400)];
        assert_eq!(a.strip_suffix(" 3").unwrap(), b.strip_suffix(" 4").unwrap());
        assert_eq!(words(&prompts.get(1, 0)), 2);
    }
}
