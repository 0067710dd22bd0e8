//! The words that the corpus is made of.

use rand::{Rng, RngExt, seq::IndexedRandom};

pub(super) const NAMES: &[&str] = &[
    "Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Henry", "Irene", "Jonas",
    "Karin", "Leon", "Maria", "Nora", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Tina", "Ugo",
    "Vera", "Walter", "Xenia", "Yann", "Zoe", "Alice", "Bruno", "Cora", "Dario", "Emma", "Frank",
    "Gloria", "Hugo", "Ida", "Jakob", "Kira", "Lars", "Mona", "Nils", "Olga", "Peter", "Ruth",
    "Sven", "Thea", "Urs", "Viktor", "Wanda",
];

pub(super) const THINGS: &[&str] = &[
    "apple", "anchor", "basket", "bell", "bicycle", "book", "bottle", "box", "bridge", "brush",
    "bucket", "button", "camera", "candle", "carpet", "chair", "clock", "coat", "compass", "cup",
    "curtain", "desk", "drum", "engine", "feather", "flag", "flute", "fork", "glass", "glove",
    "hammer", "hat", "jar", "kettle", "knife", "ladder", "lamp", "letter", "lock", "map", "mirror",
    "needle", "oven", "paddle", "paper", "pencil", "piano", "pillow", "plate", "pump", "ring",
    "rope", "ruler", "saddle", "scarf", "shovel", "spoon", "stamp", "table", "tent", "ticket",
    "torch", "towel", "trunk", "umbrella", "violin", "wagon", "wheel", "whistle", "window",
];

pub(super) const PLACES: &[&str] = &[
    "attic",
    "bakery",
    "bank",
    "barn",
    "beach",
    "cabin",
    "castle",
    "cave",
    "cellar",
    "chapel",
    "cinema",
    "dock",
    "factory",
    "farm",
    "field",
    "forest",
    "garage",
    "garden",
    "gate",
    "hall",
    "harbour",
    "hotel",
    "island",
    "kitchen",
    "lake",
    "library",
    "lighthouse",
    "market",
    "meadow",
    "mill",
    "mountain",
    "museum",
    "office",
    "orchard",
    "palace",
    "park",
    "pond",
    "river",
    "school",
    "stable",
    "station",
    "street",
    "theatre",
    "tower",
    "tunnel",
    "valley",
    "village",
    "workshop",
];

pub(super) const COLOURS: &[&str] = &[
    "red", "blue", "green", "yellow", "white", "black", "brown", "grey", "pink", "purple",
    "orange", "golden", "silver", "violet",
];

pub(super) const ANIMALS: &[&str] = &[
    "badger", "bear", "beaver", "cat", "cow", "crow", "deer", "dog", "donkey", "duck", "eagle",
    "falcon", "fox", "frog", "goat", "goose", "hare", "heron", "horse", "lizard", "mole", "mouse",
    "otter", "owl", "pigeon", "rabbit", "raven", "seal", "sheep", "snail", "sparrow", "squirrel",
    "stork", "swan", "toad", "turtle", "whale", "wolf",
];

pub(super) const QUALITIES: &[&str] = &[
    "old", "new", "small", "large", "quiet", "loud", "warm", "cold", "bright", "dark", "heavy",
    "light", "clean", "dusty", "round", "narrow", "tall", "short", "soft", "rough", "young",
    "tired", "happy", "calm", "strange", "famous", "empty", "broken", "simple", "gentle",
];

pub(super) const DEEDS: &[&str] = &[
    "watches",
    "follows",
    "finds",
    "carries",
    "paints",
    "cleans",
    "repairs",
    "forgets",
    "sells",
    "buys",
    "likes",
    "draws",
    "counts",
    "hides",
    "moves",
    "opens",
    "closes",
    "guards",
    "visits",
    "leaves",
    "reaches",
    "passes",
    "describes",
    "remembers",
    "borrows",
    "measures",
    "touches",
    "admires",
];

pub(super) const TIMES: &[&str] = &[
    "in the morning",
    "in the evening",
    "at noon",
    "at night",
    "every day",
    "once a week",
    "after the rain",
    "before sunrise",
    "in winter",
    "in summer",
    "on Monday",
    "on Friday",
    "today",
    "again",
    "without a word",
    "for a long time",
];

/// One of a list of words.
pub(super) fn pick<'a>(words: &[&'a str], rng: &mut impl Rng) -> &'a str {
    words.choose(rng).expect("no list of words is empty")
}

/// A word that nobody has seen before: two to four syllables.
pub(super) fn invented(rng: &mut impl Rng) -> String {
    const ONSETS: &[u8] = b"bdfgklmnprstvz";
    const VOWELS: &[u8] = b"aeiou";
    let mut word = String::new();
    for _ in 0..rng.random_range(2..=4) {
        word.push(char::from(*ONSETS.choose(rng).expect("not empty")));
        word.push(char::from(*VOWELS.choose(rng).expect("not empty")));
    }
    if rng.random_bool(0.3) {
        word.push(char::from(*ONSETS.choose(rng).expect("not empty")));
    }
    word
}

/// A whole number of one to six digits, every count of digits as likely.
pub(super) fn number(rng: &mut impl Rng) -> String {
    let digits = rng.random_range(1..=6);
    let low = 10u32.pow(digits - 1);
    rng.random_range(low..10 * low).to_string()
}

/// The word with a capital first letter.
pub(super) fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}
