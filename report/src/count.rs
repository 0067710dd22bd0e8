//! Numbers with binary units, as they are written in options: `4K` tokens, `60GB`.

use thiserror::Error;

const TOKEN_UNITS: [(char, u64); 2] = [('K', 1 << 10), ('M', 1 << 20)];
const BYTE_UNITS: [(char, u64); 3] = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)];

/// A text that is not the number that was expected.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("expected {expected}, found `{found}`")]
pub struct CountError {
    expected: &'static str,
    found: String,
}

impl CountError {
    fn new(expected: &'static str, found: &str) -> Self {
        Self {
            expected,
            found: found.to_owned(),
        }
    }
}

/// A number of tokens of at least 1: `4096`, `4K`, `1M`.
///
/// # Errors
///
/// When the text is something else, or the number beyond what a position can be.
pub fn tokens(text: &str) -> Result<usize, CountError> {
    positive(
        text,
        "a number of tokens from 1 to 2147483647, such as 4096, 4K or 1M",
    )
}

/// A number of tokens that may be 0 and of any size: its user says what it may be.
///
/// # Errors
///
/// When the text is something else.
pub fn any_tokens(text: &str) -> Result<usize, CountError> {
    let number = binary(text, &TOKEN_UNITS).and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| CountError::new("a number of tokens such as 4096, 4K or 1M", text))
}

/// A number of sequences of at least 1.
///
/// # Errors
///
/// When the text is something else.
pub fn sequences(text: &str) -> Result<usize, CountError> {
    positive(text, "a number of sequences from 1 to 2147483647")
}

/// A number of something else of at least 1.
///
/// # Errors
///
/// When the text is something else.
pub fn number(text: &str) -> Result<usize, CountError> {
    positive(text, "a number from 1 to 2147483647")
}

/// A number of bytes of at least 1: `60GB` and `60G` are 60 * 2^30.
///
/// # Errors
///
/// When the text is something else.
pub fn bytes(text: &str) -> Result<u64, CountError> {
    let number = text.trim();
    let number = number.strip_suffix('B').unwrap_or(number);
    binary(number, &BYTE_UNITS)
        .filter(|&number| number > 0)
        .ok_or_else(|| CountError::new("a number of bytes such as 512MB or 60GB", text))
}

fn positive(text: &str, expected: &'static str) -> Result<usize, CountError> {
    binary(text, &TOKEN_UNITS)
        .filter(|number| (1..=i32::MAX as u64).contains(number))
        .map(|number| number as usize)
        .ok_or_else(|| CountError::new(expected, text))
}

fn binary(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let text = text.trim();
    let with_unit = units.iter().find_map(|&(name, unit)| {
        let names = [name, name.to_ascii_lowercase()];
        Some((text.strip_suffix(names)?, unit))
    });
    let (number, unit) = with_unit.unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_have_a_binary_unit() {
        for (text, number) in [
            ("1", 1),
            ("4096", 4096),
            ("16K", 16_384),
            ("16k", 16_384),
            (" 32K", 32_768),
            ("1M", 1 << 20),
        ] {
            assert_eq!(tokens(text), Ok(number));
            assert_eq!(sequences(text), Ok(number));
            assert_eq!(super::number(text), Ok(number));
        }
    }

    #[test]
    fn bytes_may_have_a_unit_with_or_without_its_b() {
        assert_eq!(bytes("60GB"), Ok(60 << 30));
        assert_eq!(bytes("512M"), Ok(512 << 20));
        assert_eq!(bytes("100"), Ok(100));
        for bad in ["", "0GB", "GB", "x", "1GBB", "99999999999GB"] {
            let error = bytes(bad).unwrap_err().to_string();
            assert!(error.starts_with("expected a number of bytes"), "{error}");
        }
    }

    #[test]
    fn any_number_of_tokens_may_be_zero_and_of_any_size() {
        assert_eq!(any_tokens("0"), Ok(0));
        assert_eq!(any_tokens("1K"), Ok(1024));
        assert_eq!(any_tokens("18446744073709551615"), Ok(usize::MAX));
        for bad in ["", "-1", "1.5K", "18446744073709551615K"] {
            assert!(any_tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_number_of_tokens_is_named() {
        for bad in ["", "0", "0K", "K", "-1", "1.5K", "3T", "2048M", "4096M"] {
            let error = tokens(bad).unwrap_err().to_string();
            assert!(error.ends_with(&format!("found `{bad}`")), "{error}");
            let error = sequences(bad).unwrap_err().to_string();
            assert!(
                error.starts_with("expected a number of sequences"),
                "{error}"
            );
        }
    }
}
