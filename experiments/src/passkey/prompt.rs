use std::ops::Range;

use quest_burn_models::tokenizer::{Tokenizer, TokenizerError};

use super::{Passkey, PasskeyText};
use crate::ExperimentError;

/// The task as token ids, as long as was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasskeyPrompt {
    /// The ids.
    pub ids: Vec<u32>,
    /// How many of them are prefilled; the others are fed one by one.
    pub prefill: usize,
    /// Which of them are the sentences with the passkey.
    pub passkey_tokens: Range<usize>,
    /// The number that is hidden.
    pub passkey: u32,
}

impl PasskeyPrompt {
    /// As much filler as fits into `tokens` tokens, with `passkey` behind the share `depth` of it.
    /// The last `tail` characters, or the token they begin in, are not prefilled.
    ///
    /// # Errors
    ///
    /// When there is no room for the task itself, or the tokenizer fails.
    pub fn fit(
        tokenizer: &Tokenizer,
        tokens: usize,
        depth: f64,
        passkey: u32,
        tail: usize,
    ) -> Result<Self, ExperimentError> {
        Self::among(tokenizer, tokens, depth, &Passkey::only(passkey), &[], tail)
    }

    /// As [`fit`](Self::fit), with other passkeys hidden at even distances.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit).
    pub fn among(
        tokenizer: &Tokenizer,
        tokens: usize,
        depth: f64,
        passkey: &Passkey,
        others: &[Passkey],
        tail: usize,
    ) -> Result<Self, ExperimentError> {
        let text = |filler| PasskeyText::new(passkey, others, filler, depth);
        Self::with(tokenizer, tokens, passkey.number, tail, text)
    }

    /// As [`fit`](Self::fit), with the right answer behind the question, which is not prefilled.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit).
    pub fn answered(
        tokenizer: &Tokenizer,
        tokens: usize,
        depth: f64,
        passkey: u32,
    ) -> Result<Self, ExperimentError> {
        let answer = format!(" {passkey}.");
        let key = Passkey::only(passkey);
        let text = |filler| PasskeyText::new(&key, &[], filler, depth).with_end(&answer);
        Self::with(tokenizer, tokens, passkey, answer.len(), text)
    }

    fn with(
        tokenizer: &Tokenizer,
        tokens: usize,
        passkey: u32,
        tail: usize,
        text: impl Fn(usize) -> PasskeyText,
    ) -> Result<Self, ExperimentError> {
        let count = |text: &str| Ok::<_, TokenizerError>(tokenizer.encode(text)?.len());
        let filler = max_filler(tokens, |filler| count(text(filler).text()))?;
        let text = text(filler);
        let ids = tokenizer.encode(text.text())?;
        let prefill = count(text.without_last(tail))?;
        let passkey_tokens = count(text.before_passkey())?..count(text.through_passkey())?;
        Ok(Self {
            prefill: prefill.clamp(1, ids.len() - 1),
            passkey_tokens,
            passkey,
            ids,
        })
    }
}

/// The number of filler characters with which the text has no more than `tokens` tokens, and with
/// one more character has more.
///
/// Asks for the count of as few texts as it can: encoding a long text takes a while.
fn max_filler(
    tokens: usize,
    count: impl Fn(usize) -> Result<usize, TokenizerError>,
) -> Result<usize, ExperimentError> {
    const SAMPLE: usize = 4096;
    let min = count(0)?;
    if min > tokens {
        return Err(ExperimentError::TooShort { min, found: tokens });
    }
    let in_sample = count(SAMPLE)?.saturating_sub(min);
    if in_sample == 0 {
        return Err(ExperimentError::setting(
            "tokenizer",
            "tokens for a text in English",
            "none",
        ));
    }
    let guess = (tokens - min) * SAMPLE / in_sample;
    let fits = |filler| Ok::<_, TokenizerError>(count(filler)? <= tokens);

    // Steps that double lead from the guess, which is close, past the limit.
    let mut step = 16;
    let (mut fitting, mut beyond) = (guess, guess);
    if fits(guess)? {
        while fits(beyond)? {
            (fitting, beyond) = (beyond, beyond + step);
            step *= 2;
        }
    } else {
        while fitting > 0 && !fits(fitting)? {
            (fitting, beyond) = (fitting.saturating_sub(step), fitting);
            step *= 2;
        }
    }
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        match fits(middle)? {
            true => fitting = middle,
            false => beyond = middle,
        }
    }
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finds the longest filler where `per_token` characters are a token, and 10 tokens are no filler.
    fn filler_of(tokens: usize, per_token: usize) -> Result<usize, ExperimentError> {
        max_filler(tokens, |filler| Ok(10 + filler.div_ceil(per_token)))
    }

    #[test]
    fn the_filler_that_fits_is_found_for_any_number_of_characters_per_token() {
        for per_token in [1, 2, 3, 7, 90] {
            for tokens in [10, 11, 12, 60, 1000, 4105, 123_456] {
                let filler = filler_of(tokens, per_token).unwrap();
                assert_eq!(filler, (tokens - 10) * per_token, "{tokens} of {per_token}");
            }
        }
    }

    #[test]
    fn the_search_does_not_rely_on_its_guess() {
        // The first characters are cheap, so the guess is far too high, or far too low.
        for (cheap, dear) in [(100, 1), (1, 100)] {
            let count = |filler: usize| {
                Ok(filler.min(5000).div_ceil(cheap) + filler.saturating_sub(5000).div_ceil(dear))
            };
            let filler = max_filler(20_000, count).unwrap();
            assert!(count(filler).unwrap() <= 20_000);
            assert!(count(filler + 1).unwrap() > 20_000);
        }
    }

    #[test]
    fn no_room_for_the_task_and_a_tokenizer_without_tokens_are_refused() {
        assert!(matches!(
            filler_of(9, 1),
            Err(ExperimentError::TooShort { min: 10, found: 9 })
        ));
        let error = max_filler(9, |_| Ok(0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tokenizer: expected tokens for a text in English, found none"
        );
    }
}
