/// Whether the first number in an answer is the passkey.
pub fn is_correct(answer: &str, passkey: u32) -> bool {
    first_digits(answer) == Some(passkey.to_string().as_str())
}

/// The first number in an answer, unless it is beyond all bounds.
pub fn first_number(answer: &str) -> Option<u64> {
    first_digits(answer)?.parse().ok()
}

fn first_digits(answer: &str) -> Option<&str> {
    let start = answer.find(|c: char| c.is_ascii_digit())?;
    answer[start..].split(|c: char| !c.is_ascii_digit()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_number_counts_and_it_must_be_whole() {
        for right in ["4711", " 4711.", " is 4711 and not 12", "\n4711x"] {
            assert!(is_correct(right, 4711), "{right:?}");
        }
        for wrong in [
            "",
            "none",
            " 471",
            " 47110",
            "12 4711",
            "47 11",
            "4\u{664}711",
            " 04711",
        ] {
            assert!(!is_correct(wrong, 4711), "{wrong:?}");
        }
    }

    #[test]
    fn the_first_number_is_there_or_not() {
        assert_eq!(first_number(" is 4711, not 12"), Some(4711));
        assert_eq!(first_number("none"), None);
        assert_eq!(first_number(&"9".repeat(30)), None);
    }
}
