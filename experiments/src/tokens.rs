//! Numbers of tokens, as they are written in options.

use thiserror::Error;

/// A text that is no number of tokens.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("expected a number of tokens such as 4096, 4K or 1M, found `{0}`")]
pub struct TokensError(String);

/// A number of tokens of at least 1: `4096`, `4K`, `1M`.
///
/// # Errors
///
/// When the text is something else, or the number beyond what a position can be.
pub fn parse(text: &str) -> Result<usize, TokensError> {
    parse_count(text).and_then(|tokens| match (1..=i32::MAX as usize).contains(&tokens) {
        true => Ok(tokens),
        false => Err(TokensError(text.to_owned())),
    })
}

/// A number of tokens that may be 0 and of any size: what is done with it says what it may be.
///
/// # Errors
///
/// When the text is something else.
pub fn parse_count(text: &str) -> Result<usize, TokensError> {
    let units = [
        ("K", 1 << 10),
        ("k", 1 << 10),
        ("M", 1 << 20),
        ("m", 1 << 20),
    ];
    let mut units = units.into_iter();
    let in_units = units.find_map(|(name, unit)| Some((text.trim().strip_suffix(name)?, unit)));
    let (number, unit) = in_units.unwrap_or((text.trim(), 1));
    let tokens = number.parse::<usize>().ok();
    let tokens = tokens.and_then(|number| number.checked_mul(unit));
    tokens.ok_or_else(|| TokensError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_have_a_binary_unit() {
        for (text, tokens) in [
            ("1", 1),
            ("4096", 4096),
            ("16K", 16_384),
            ("16k", 16_384),
            (" 32K", 32_768),
            ("1M", 1 << 20),
        ] {
            assert_eq!(parse(text), Ok(tokens));
        }
    }

    #[test]
    fn a_count_may_be_zero_and_of_any_size() {
        assert_eq!(parse_count("0"), Ok(0));
        assert_eq!(parse_count("1K"), Ok(1024));
        assert_eq!(parse_count("18446744073709551615"), Ok(usize::MAX));
        for bad in ["", "-1", "1.5K", "18446744073709551615K"] {
            assert_eq!(parse_count(bad), Err(TokensError(bad.to_owned())));
        }
    }

    #[test]
    fn what_is_no_number_of_tokens_is_named() {
        for bad in ["", "0", "0K", "K", "-1", "1.5K", "3T", "2048M", "4096M"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.ends_with(&format!("found `{bad}`")), "{error}");
        }
    }
}
