use std::collections::HashSet;

/// ROUGE-L of two texts: F1 of the distinct words that some longest common subsequence of a
/// sentence of one and a sentence of the other holds.
pub(super) fn rouge_l(answer: &str, reference: &str) -> f64 {
    let (answer, reference) = (sentences(answer), sentences(reference));
    let mut common = HashSet::new();
    for of_reference in &reference {
        for of_answer in &answer {
            common.extend(common_subsequence(of_reference, of_answer));
        }
    }
    super::f1(common.len(), distinct(&answer), distinct(&reference))
}

/// The words of each sentence. A full stop ends one, wherever it is.
fn sentences(text: &str) -> Vec<Vec<&str>> {
    let sentences = text.split('.').map(|s| s.split_whitespace().collect());
    sentences.filter(|s: &Vec<_>| !s.is_empty()).collect()
}

fn distinct(sentences: &[Vec<&str>]) -> usize {
    sentences.iter().flatten().collect::<HashSet<_>>().len()
}

/// A longest common subsequence of two sentences, last word first. Of several, the one that
/// leaves out words of `b` rather than of `a`, from the end on.
fn common_subsequence<'a>(a: &[&'a str], b: &[&str]) -> Vec<&'a str> {
    let width = b.len() + 1;
    // lengths[i * width + j]: of the first i words of `a` and the first j of `b`.
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for (i, word) in a.iter().enumerate() {
        for (j, other) in b.iter().enumerate() {
            lengths[(i + 1) * width + j + 1] = match word == other {
                true => lengths[i * width + j] + 1,
                false => lengths[i * width + j + 1].max(lengths[(i + 1) * width + j]),
            };
        }
    }
    let (mut i, mut j) = (a.len(), b.len());
    let mut common = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            common.push(a[i - 1]);
            (i, j) = (i - 1, j - 1);
        } else if lengths[(i - 1) * width + j] > lengths[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_scores(answer: &str, reference: &str, expected: f64) {
        let score = rouge_l(answer, reference);
        assert!((score - expected).abs() < 1e-7, "{score}, {expected}");
    }

    #[test]
    fn a_sentence_is_scored_by_its_longest_common_subsequence() {
        // "police killed gunman" of "police killed the gunman" in order: 3 of 4 and 3 of 5 words.
        assert_scores(
            "police then killed a gunman",
            "police killed the gunman",
            6.0 / 9.0,
        );
        // Words in another order are no subsequence: "the gunman" or "police".
        assert_scores("the gunman killed police", "police killed the gunman", 0.5);
        assert_scores("same text", "same text", 1.0);
        assert_scores("no match", "whatever else", 0.0);
    }

    #[test]
    fn sentences_are_matched_with_each_other_and_words_counted_once() {
        // Of the first reference sentence "the cat" and "on" and "mat" are found, of the second
        // "sat": 5 distinct words of 5 and of 8.
        let reference = "the cat was on a mat. it sat";
        assert_scores("the cat sat. on the mat", reference, 10.0 / 13.0);
        assert_scores("ha ha ha", "ha", 1.0);
    }

    #[test]
    fn scores_are_those_of_the_package_that_longbench_uses() {
        // Expected: get_scores of the package rouge 1.0.1.
        assert_scores(
            "The agency reviewed 12 programs. It found that costs rose, and that controls were \
             weak. Congress asked for more.",
            "Congress asked the agency to review its programs. The agency found weak controls. \
             Costs rose by 4.5 percent, it found.",
            0.378378373382,
        );
        assert_scores(
            "In 2019 the office spent less than planned because staff left. The report says so. \
             It says so twice.",
            "Because staff left, the office spent less in 2019 than it had planned. This report \
             says why.",
            0.470588230294,
        );
        assert_scores("a b c d e f g", "g f e d c b a", 0.142857137857);
        assert_scores("x a b. y b a. z", "b a. a b z. q", 0.666666661728);
    }

    #[test]
    fn case_and_punctuation_count_and_blanks_do_not() {
        assert_scores("The end", "the end", 0.5);
        assert_scores("the end,", "the end", 0.5);
        assert_scores(" the \n end . ", "the end.", 1.0);
    }

    #[test]
    fn nothing_scores_0() {
        for (answer, reference) in [("", "word"), ("word", ""), ("", ""), (" . ", "word")] {
            assert_scores(answer, reference, 0.0);
        }
    }

    #[test]
    fn long_texts_without_a_full_stop_are_scored() {
        let words = (0..3000).map(|i| i.to_string()).collect::<Vec<_>>();
        let (all, half) = (words.join(" "), words[..1500].join(" "));
        assert_scores(&half, &all, 2.0 / 3.0);
    }
}
