//! Lists of words: the most common of them, and the most frequent of coded ones.

use std::collections::HashSet;

use rand::{RngExt, rngs::StdRng, seq::SliceRandom};

use super::{task::RulerText, vocabulary};

/// Words that are asked for, and how often each is there.
const COMMON: usize = 10;
const COMMON_TIMES: usize = 30;
/// How often each of the others is there.
const UNCOMMON_TIMES: usize = 3;
/// Most of the others: so many words there are.
pub(super) const MAX_UNCOMMON: usize = vocabulary::MAX - COMMON;

/// Fewest coded words with which the four most frequent ones differ.
pub(super) const LEAST_CODED: usize = 100;
/// What RULER gives the most frequent place to.
const DOTS: &str = "....";

/// A numbered list of words with `uncommon` of them besides the common ones.
pub(super) fn common(uncommon: usize, rng: &mut StdRng) -> RulerText {
    let mut words = vocabulary::compounds(vocabulary::MAX, rng);
    words.truncate(COMMON + uncommon);
    let (common, uncommon) = words.split_at(COMMON);
    let often = common.iter().flat_map(|word| [word; COMMON_TIMES]);
    let seldom = uncommon.iter().flat_map(|word| [word; UNCOMMON_TIMES]);
    let mut list = often.chain(seldom).collect::<Vec<_>>();
    list.shuffle(rng);
    let list = list.iter().zip(1..).map(|(word, n)| format!("{n}. {word}"));
    RulerText {
        context: format!(
            "Below is a numbered list of words. In these words, some appear more often than \
             others. Memorize the ones that appear most often.\n{}\n",
            list.collect::<Vec<_>>().join(" ")
        ),
        question: "Question: What are the 10 most common words in the above list? Answer: The top \
                   10 words that appear most often in the list are:"
            .to_owned(),
        expected: common.to_vec(),
    }
}

/// Some `n` coded words, whose numbers fall with the square of their rank; the first are dots.
pub(super) fn frequent(n: usize, rng: &mut StdRng) -> RulerText {
    // zeta(2)
    let total = core::f64::consts::PI.powi(2) / 6.0;
    let times = |rank: usize| (n as f64 / (total * (rank * rank) as f64)) as usize;
    let n_words = (1..).take_while(|&rank| times(rank) > 0).count();
    let mut words = vec![DOTS.to_owned()];
    let mut taken = HashSet::new();
    while words.len() < n_words.max(4) {
        let word = (0..6).map(|_| char::from(rng.random_range(b'a'..=b'z')));
        let word = word.collect::<String>();
        if taken.insert(word.clone()) {
            words.push(word);
        }
    }
    let coded = words.iter().zip(1..);
    let coded = coded.flat_map(|(word, rank)| std::iter::repeat_n(word.as_str(), times(rank)));
    let mut coded = coded.collect::<Vec<_>>();
    coded.shuffle(rng);
    RulerText {
        context: format!(
            "Read the following coded text and track the frequency of each coded word. Find the \
             three most frequently appeared coded words. {}\n",
            coded.join(" ")
        ),
        question: "Question: Do not provide any explanation. Please ignore the dots '....'. What \
                   are the three most frequently appeared words in the above coded text? Answer: \
                   According to the coded text above, the three most frequently appeared words are:"
            .to_owned(),
        expected: words[1..4].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::SeedableRng;

    use super::*;

    fn counts<'a>(words: impl Iterator<Item = &'a str>) -> HashMap<&'a str, usize> {
        words.fold(HashMap::new(), |mut counts, word| {
            *counts.entry(word).or_default() += 1;
            counts
        })
    }

    #[test]
    fn common_words_come_ten_times_as_often_as_others() {
        let text = common(40, &mut StdRng::seed_from_u64(1));
        let list = text.context.lines().nth(1).unwrap();
        assert!(list.starts_with("1. "));
        let counts = counts(list.split(' ').skip(1).step_by(2));
        assert_eq!(counts.len(), 50);
        for (word, times) in counts {
            let is_common = text.expected.iter().any(|common| common == word);
            assert_eq!(times, if is_common { 30 } else { 3 }, "{word}");
        }
    }

    #[test]
    fn the_three_most_frequent_coded_words_are_expected_in_their_order() {
        for n in [LEAST_CODED, 1000] {
            let text = frequent(n, &mut StdRng::seed_from_u64(2));
            let (_, coded) = text.context.trim_end().split_once("words. ").unwrap();
            let mut counts = counts(coded.split(' ')).into_iter().collect::<Vec<_>>();
            counts.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
            let found = counts.iter().take(4).map(|(word, _)| *word);
            let mut expected = vec![DOTS];
            expected.extend(text.expected.iter().map(String::as_str));
            assert_eq!(found.collect::<Vec<_>>(), expected);
            let times = counts.iter().take(5).map(|(_, times)| times);
            assert!(times.is_sorted_by(|a, b| a > b), "no ties: {counts:?}");
        }
    }
}
