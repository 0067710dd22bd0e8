//! How an answer is scored against reference answers, as LongBench scores it: from 0 to 1.

mod f1;
mod rouge;

use serde::Serialize;

/// A measure of how much of a reference answer is in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// F1 of the words of two normalised answers: lower case, no punctuation, no articles.
    F1,
    /// F1 of the words that two texts have in common in the same order.
    ///
    /// As the Python package `rouge` 1.0.1 computes it: without stemming and with case, sentence
    /// by sentence, each distinct word counted once. It differs from that package in three
    /// things. Texts of any length are scored, where the package runs into Python's recursion
    /// limit on sentences of many hundred words and LongBench then counts 0. The blank behind the
    /// last full stop is not counted as a word. And the F1 is not made smaller by the package's
    /// epsilon (less than 1e-7).
    ///
    /// The original ROUGE-L of one sentence counts every occurrence of a word and scores slightly
    /// differently.
    RougeL,
}

impl Metric {
    /// Its name, for a score in percent.
    pub fn label(self) -> &'static str {
        match self {
            Self::F1 => "F1, %",
            Self::RougeL => "ROUGE-L, %",
        }
    }

    /// The score of an answer: that of the best of the reference answers.
    ///
    /// It is 0 where there are none.
    pub fn score(self, answer: &str, references: &[String]) -> f64 {
        let score = match self {
            Self::F1 => f1::token_f1,
            Self::RougeL => rouge::rouge_l,
        };
        let scores = references.iter().map(|reference| score(answer, reference));
        scores.fold(0.0, f64::max)
    }
}

/// Harmonic mean of precision and recall, of `common` words.
fn f1(common: usize, answer: usize, reference: usize) -> f64 {
    match common {
        0 => 0.0,
        _ => 2.0 * common as f64 / (answer + reference) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_several_references_counts() {
        let references = ["a red fox".to_owned(), "the fox".to_owned()];
        assert_eq!(Metric::F1.score("Fox!", &references), 1.0);
        assert_eq!(Metric::F1.score("Fox!", &references[..1]), 2.0 / 3.0);
        assert_eq!(Metric::F1.score("Fox!", &[]), 0.0);
        let references = ["no word".to_owned(), "the fox".to_owned()];
        assert_eq!(Metric::RougeL.score("the fox", &references), 1.0);
    }

    #[test]
    fn f1_is_the_harmonic_mean_of_precision_and_recall() {
        let (precision, recall) = (3.0 / 4.0, 3.0 / 5.0);
        let expected = 2.0 * precision * recall / (precision + recall);
        assert!((f1(3, 4, 5) - expected).abs() < 1e-12);
        assert_eq!(f1(0, 0, 0), 0.0);
    }
}
