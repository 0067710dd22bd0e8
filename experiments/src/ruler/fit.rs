use std::ops::RangeInclusive;

use quest_burn_models::tokenizer::{Tokenizer, TokenizerError};

use super::task::RulerText;
use crate::ExperimentError;

/// A task as token ids, no longer than was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulerPrompt {
    /// The ids.
    pub ids: Vec<u32>,
    /// How many of them are prefilled: those before the question.
    pub prefill: usize,
    /// What the answer must hold.
    pub expected: Vec<String>,
}

impl RulerPrompt {
    /// The largest of the sizes with which `text` has at most `tokens` tokens.
    ///
    /// # Errors
    ///
    /// When the smallest size has more, or the tokenizer fails.
    pub(super) fn fit(
        tokenizer: &Tokenizer,
        tokens: usize,
        sizes: RangeInclusive<usize>,
        text: impl Fn(usize) -> RulerText,
    ) -> Result<Self, ExperimentError> {
        let whole = |text: &RulerText| tokenizer.encode(&(text.context.clone() + &text.question));
        let size = largest(tokens, sizes, |size| Ok(whole(&text(size))?.len()))?;
        let text = text(size);
        let ids = whole(&text)?;
        let context = tokenizer.encode(&text.context)?;
        // Tokens that the beginning of the question changes are fed with it.
        let same = ids.iter().zip(&context).take_while(|(a, b)| a == b);
        let prefill = same.count().clamp(1, ids.len() - 1);
        Ok(Self {
            prefill,
            ids,
            expected: text.expected,
        })
    }
}

/// The largest of the sizes whose count is at most `tokens`; counts grow with the size.
fn largest(
    tokens: usize,
    sizes: RangeInclusive<usize>,
    count: impl Fn(usize) -> Result<usize, TokenizerError>,
) -> Result<usize, ExperimentError> {
    let (min, last) = sizes.into_inner();
    let found = count(min)?;
    if found > tokens {
        return Err(ExperimentError::TooShort {
            min: found,
            found: tokens,
        });
    }
    // Steps that double lead past the limit, or to the last size.
    let (mut fits, mut step) = (min, 1);
    let mut over = loop {
        let next = fits.saturating_add(step).min(last);
        if next == fits {
            return Ok(fits);
        }
        if count(next)? > tokens {
            break next;
        }
        (fits, step) = (next, step * 2);
    };
    while over - fits > 1 {
        let middle = fits + (over - fits) / 2;
        match count(middle)? <= tokens {
            true => fits = middle,
            false => over = middle,
        }
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_size_that_fits_is_found_within_its_bounds() {
        let found = |tokens, sizes| largest(tokens, sizes, |size| Ok(10 + 7 * size));
        for tokens in [10, 16, 17, 18, 500, 12_345] {
            assert_eq!(found(tokens, 0..=usize::MAX).unwrap(), (tokens - 10) / 7);
        }
        assert_eq!(found(500, 0..=20).unwrap(), 20);
        assert_eq!(found(500, 3..=3).unwrap(), 3);
        assert!(matches!(
            found(30, 3..=20),
            Err(ExperimentError::TooShort { min: 31, found: 30 })
        ));
    }
}
