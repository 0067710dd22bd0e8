//! Variable tracking: a chain of assignments, hidden in a haystack.

use std::collections::HashSet;

use rand::{RngExt, rngs::StdRng};

use super::{haystack::Haystack, task::RulerText};

/// Assignments behind the first one.
const HOPS: usize = 4;

pub(super) fn text(haystack: &Haystack, sentences: usize, rng: &mut StdRng) -> RulerText {
    let mut names = Vec::new();
    let mut taken = HashSet::new();
    while names.len() <= HOPS {
        let name = (0..5).map(|_| char::from(rng.random_range(b'A'..=b'Z')));
        let name = name.collect::<String>();
        if taken.insert(name.clone()) {
            names.push(name);
        }
    }
    let value = rng.random_range(10_000..100_000u32);
    let mut places = (0..=HOPS)
        .map(|_| rng.random_range(0.0..1.0f64))
        .collect::<Vec<_>>();
    places.sort_by(f64::total_cmp);
    let hidden = names
        .iter()
        .zip(&places)
        .enumerate()
        .map(|(hop, (name, place))| {
            let assigned = match hop {
                0 => value.to_string(),
                hop => format!("VAR {}", names[hop - 1]),
            };
            let place = (place * sentences as f64) as usize;
            (place, format!("VAR {name} = {assigned}."))
        });
    let hidden = hidden.collect::<Vec<_>>();
    let n = names.len();
    RulerText {
        context: format!(
            "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n\
             {}\n",
            haystack.with(sentences, &hidden)
        ),
        question: format!(
            "Question: Find all variables that are assigned the value {value} in the text above. \
             Answer: According to the chain(s) of variable assignment in the text above, {n} \
             variables are assigned the value {value}, they are:"
        ),
        expected: names,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn each_variable_is_assigned_the_one_before_it_in_the_text() {
        for sentences in [0, 3, 100] {
            let rng = &mut StdRng::seed_from_u64(3);
            let text = text(&Haystack::noise(), sentences, rng);
            assert_eq!(text.expected.len(), 5);
            let mut rest = text.context.as_str();
            let value = text.question.split("the value ").nth(1).unwrap();
            let mut assigned = value[..5].to_owned();
            for name in &text.expected {
                let statement = format!("VAR {name} = {assigned}.");
                let at = rest.find(&statement).expect("in order");
                rest = &rest[at + statement.len()..];
                assigned = format!("VAR {name}");
            }
            assert_eq!(text.context.matches("VAR ").count(), 9);
        }
    }
}
