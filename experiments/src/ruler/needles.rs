//! Needles in a haystack: special magic numbers.

use std::collections::HashSet;

use rand::{RngExt, rngs::StdRng};

use super::{haystack::Haystack, task::RulerText, vocabulary};

/// How many needles there are, and which are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needles {
    keys: usize,
    values: usize,
    queries: usize,
}

pub(super) const SINGLE: Needles = Needles {
    keys: 1,
    values: 1,
    queries: 1,
};
pub(super) const MULTI_KEY: Needles = Needles { keys: 4, ..SINGLE };
pub(super) const MULTI_VALUE: Needles = Needles {
    values: 4,
    ..SINGLE
};
pub(super) const MULTI_QUERY: Needles = Needles {
    keys: 4,
    queries: 4,
    ..SINGLE
};

/// The first needle that is asked for lies behind the share `depth` of the haystack, the others
/// anywhere.
pub(super) fn text(
    haystack: &Haystack,
    sentences: usize,
    depth: f64,
    needles: Needles,
    rng: &mut StdRng,
) -> RulerText {
    let mut numbers = HashSet::new();
    let mut number = |rng: &mut StdRng| loop {
        let number = rng.random_range(1_000_000..10_000_000u32);
        if numbers.insert(number) {
            return number.to_string();
        }
    };
    let keys = vocabulary::compounds(needles.keys, rng);
    let mut hidden = Vec::new();
    let mut expected = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        for _ in 0..needles.values {
            let value = number(rng);
            let other = rng.random_range(0.0..1.0);
            let share = if hidden.is_empty() { depth } else { other };
            let place = (share * sentences as f64 + 1e-9) as usize;
            let statement = format!("One of the special magic numbers for {key} is: {value}.");
            hidden.push((place, statement));
            if index < needles.queries {
                expected.push(value);
            }
        }
    }
    let asked = listing(&keys[..needles.queries]);
    let (a, numbers, is) = match expected.len() {
        1 => ("A special magic number is", "number", "is"),
        _ => ("Some special magic numbers are", "numbers", "are"),
    };
    let them = if expected.len() == 1 { "it" } else { "them" };
    let all = if expected.len() == 1 {
        "the"
    } else {
        "all the"
    };
    RulerText {
        context: format!(
            "{a} hidden within the following text. Make sure to memorize {them}. I will quiz you \
             about the {numbers} afterwards.\n{}\n",
            haystack.with(sentences, &hidden)
        ),
        question: format!(
            "What {is} {all} special magic {numbers} for {asked} mentioned in the provided text? \
             The special magic {numbers} for {asked} mentioned in the provided text {is}"
        ),
        expected,
    }
}

/// "a", "a and b", "a, b, and c"
fn listing(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [others @ .., last] => format!("{}, and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn made(needles: Needles, sentences: usize, depth: f64) -> RulerText {
        let rng = &mut StdRng::seed_from_u64(7);
        text(&Haystack::noise(), sentences, depth, needles, rng)
    }

    #[test]
    fn there_are_as_many_needles_and_answers_as_the_task_has() {
        for (needles, hidden, asked) in [
            (SINGLE, 1, 1),
            (MULTI_KEY, 4, 1),
            (MULTI_VALUE, 4, 4),
            (MULTI_QUERY, 4, 4),
        ] {
            let text = made(needles, 40, 0.5);
            let found = text.context.matches("One of the special magic numbers");
            assert_eq!((found.count(), text.expected.len()), (hidden, asked));
            for value in &text.expected {
                assert!(text.context.contains(&format!("is: {value}.")));
                assert!(!text.question.contains(value));
            }
        }
    }

    #[test]
    fn the_question_is_in_the_number_of_what_it_asks_for() {
        let one = made(SINGLE, 5, 0.5);
        assert!(one.context.starts_with("A special magic number is hidden"));
        assert!(
            one.question
                .starts_with("What is the special magic number for ")
        );
        let several = made(MULTI_VALUE, 5, 0.5);
        assert!(
            several
                .question
                .starts_with("What are all the special magic numbers for ")
        );
        assert!(
            several
                .question
                .ends_with(" mentioned in the provided text are")
        );
    }

    #[test]
    fn the_asked_needle_lies_at_its_depth_and_the_size_changes_nothing_else() {
        for (depth, before) in [(0.0, 0), (0.5, 10), (1.0, 20)] {
            let text = made(SINGLE, 20, depth);
            let context = text.context.lines().nth(1).unwrap();
            let (front, _) = context.split_once("One of").unwrap();
            assert_eq!(front.matches('.').count(), before, "{depth}");
            assert_eq!(made(SINGLE, 30, depth).expected, text.expected);
        }
    }

    #[test]
    fn names_are_listed_as_in_english() {
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(listing(&names), "a, b, and c");
        assert_eq!(listing(&names[..2]), "a and b");
    }
}
