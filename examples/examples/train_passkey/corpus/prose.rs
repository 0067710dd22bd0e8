//! Text in which nothing is hidden.

use rand::{Rng, RngExt, seq::IndexedRandom};

use super::words::{
    ANIMALS, COLOURS, DEEDS, NAMES, PLACES, QUALITIES, THINGS, TIMES, capitalised, pick,
};

/// The filler of the passkey task.
pub(crate) const GRASS: &[&str] = &[
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
];

/// A sentence of a simple grammar.
pub(super) fn sentence(rng: &mut impl Rng) -> String {
    let subject = subject(rng);
    let deed = pick(DEEDS, rng);
    match rng.random_range(0..8) {
        0 => format!("{subject} {deed} {}.", object(rng)),
        1 => format!("{subject} {deed} {} {}.", object(rng), pick(TIMES, rng)),
        2 => format!(
            "{subject} {deed} {} near the {}.",
            object(rng),
            pick(PLACES, rng)
        ),
        3 => format!("The {} is {}.", pick(PLACES, rng), pick(QUALITIES, rng)),
        4 => format!(
            "The {} in the {} is {} and {}.",
            pick(THINGS, rng),
            pick(PLACES, rng),
            pick(QUALITIES, rng),
            pick(QUALITIES, rng)
        ),
        5 => format!(
            "{}, {} {deed} {}.",
            capitalised(pick(TIMES, rng)),
            lower(&subject),
            object(rng)
        ),
        6 => format!("There is {} in the {}.", object(rng), pick(PLACES, rng)),
        _ => format!(
            "{subject} {deed} {}, and {} {} it.",
            object(rng),
            lower(&self::subject(rng)),
            pick(DEEDS, rng)
        ),
    }
}

/// A loop of sentences that repeats, as the filler of the passkey task does.
pub(super) fn refrain(rng: &mut impl Rng) -> Vec<String> {
    (0..rng.random_range(2..=6))
        .map(|_| sentence(rng))
        .collect()
}

fn subject(rng: &mut impl Rng) -> String {
    match rng.random_range(0..3) {
        0 => pick(NAMES, rng).to_owned(),
        1 => format!("The {}", pick(ANIMALS, rng)),
        _ => format!("The {} {}", pick(QUALITIES, rng), pick(ANIMALS, rng)),
    }
}

fn object(rng: &mut impl Rng) -> String {
    let describing = [COLOURS, QUALITIES];
    let describing = describing.choose(rng).expect("two lists");
    match rng.random_range(0..3) {
        0 => format!("the {}", pick(THINGS, rng)),
        1 => format!("a {} {}", pick(describing, rng), pick(THINGS, rng)),
        _ => format!("the {} of the {}", pick(THINGS, rng), pick(ANIMALS, rng)),
    }
}

/// In the middle of a sentence.
fn lower(subject: &str) -> String {
    match subject.strip_prefix("The ") {
        Some(rest) => format!("the {rest}"),
        None => subject.to_owned(),
    }
}
