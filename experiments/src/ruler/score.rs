/// RULER's score of an answer, from 0 to 1: the share of the expected strings that it contains, in
/// any case of letters; where one of them is enough, whether it contains any.
pub fn score(answer: &str, expected: &[String], any_is_enough: bool) -> f64 {
    let answer = answer.to_lowercase();
    let found = expected
        .iter()
        .filter(|e| answer.contains(&e.to_lowercase()));
    match (found.count(), any_is_enough) {
        (0, _) => 0.0,
        (_, true) => 1.0,
        (found, false) => found as f64 / expected.len() as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_contains_counts() {
        let expected = ["Paris", "12", "x-y", "none"].map(str::to_owned);
        assert_eq!(score("PARIS, 12 and X-Y", &expected, false), 0.75);
        assert_eq!(score("12", &expected, false), 0.25);
        assert_eq!(score("12", &expected, true), 1.0);
        assert_eq!(score("Rome", &expected, true), 0.0);
        assert_eq!(score("", &[], false), 0.0);
    }
}
