use std::collections::HashMap;

/// F1 of the words of two answers, each after [`normalize`]; repeated words count as often as
/// both have them.
pub(super) fn token_f1(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (normalize(answer), normalize(reference));
    let words = |text: &str| text.split_whitespace().count();
    let mut unmatched = HashMap::<&str, usize>::new();
    for word in reference.split_whitespace() {
        *unmatched.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in answer.split_whitespace() {
        if let Some(n) = unmatched.get_mut(word).filter(|n| **n > 0) {
            *n -= 1;
            common += 1;
        }
    }
    super::f1(common, words(&answer), words(&reference))
}

/// An answer as SQuAD compares it: lower case, ASCII punctuation deleted, the words "a", "an" and
/// "the" deleted, single blanks.
fn normalize(answer: &str) -> String {
    let mut text = answer.to_lowercase();
    text.retain(|c| !c.is_ascii_punctuation());
    // Articles end where letters and digits do: in "the\u{2013}end" there is one.
    let mut normalized = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let is_word = rest.starts_with(char::is_alphanumeric);
        let end = rest.find(|c: char| c.is_alphanumeric() != is_word);
        let (run, after) = rest.split_at(end.unwrap_or(rest.len()));
        normalized.push_str(match run {
            "a" | "an" | "the" => " ",
            run => run,
        });
        rest = after;
    }
    normalized.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_punctuation_articles_and_blanks_do_not_count() {
        assert_eq!(
            normalize("  The  Quick-Brown, fox!\n"),
            "quickbrown fox",
            "punctuation is deleted, not made a blank"
        );
        assert_eq!(normalize("an apple a day (the best)"), "apple day best");
        assert_eq!(
            normalize("theatre another banana"),
            "theatre another banana"
        );
        assert_eq!(normalize("U.S.A."), "usa");
        assert_eq!(normalize("The, a. AN!"), "");
    }

    #[test]
    fn articles_end_at_punctuation_that_is_not_ascii() {
        assert_eq!(normalize("the\u{2013}end"), "\u{2013}end");
        assert_eq!(normalize("\u{201c}The end\u{201d}"), "\u{201c} end\u{201d}");
        assert_eq!(normalize("\u{c4}PFEL"), "\u{e4}pfel");
    }

    #[test]
    fn words_are_counted_as_often_as_both_have_them() {
        // Common: "new" once, "york" once. Precision 2/3, recall 2/4.
        let f1 = token_f1("New New York", "new york city hall");
        assert!((f1 - 4.0 / 7.0).abs() < 1e-12);
        // Common: "ha" twice of three and two.
        assert!((token_f1("ha ha ha", "ha, ha") - 0.8).abs() < 1e-12);
    }

    #[test]
    fn equal_answers_score_1_and_disjoint_ones_0() {
        assert_eq!(token_f1("The Eiffel Tower.", "eiffel tower"), 1.0);
        assert_eq!(token_f1("Paris", "London"), 0.0);
        assert_eq!(token_f1("", "London"), 0.0);
        assert_eq!(token_f1("the", "a"), 0.0, "nothing is left of either");
    }
}
