//! Words to draw from.

use rand::{Rng, seq::SliceRandom};

const QUALITIES: [&str; 60] = [
    "able", "amber", "ancient", "bitter", "blue", "brave", "brief", "bright", "calm", "clever",
    "cold", "copper", "crisp", "dark", "distant", "dry", "eager", "early", "empty", "even",
    "faint", "fair", "firm", "fresh", "gentle", "glad", "golden", "grand", "green", "heavy",
    "hollow", "humble", "icy", "idle", "keen", "kind", "late", "light", "little", "loud", "mellow",
    "mild", "narrow", "neat", "noble", "odd", "pale", "plain", "proud", "quick", "quiet", "rapid",
    "rough", "sharp", "silent", "small", "soft", "steady", "warm", "wide",
];
const THINGS: [&str; 60] = [
    "acorn", "anchor", "apple", "arrow", "basket", "beacon", "bell", "bird", "boat", "book",
    "bottle", "branch", "bridge", "bucket", "button", "candle", "canvas", "castle", "chair",
    "cloud", "coat", "coin", "compass", "copper", "cup", "desk", "door", "drum", "feather",
    "field", "flag", "flute", "garden", "gate", "glove", "hammer", "harbor", "hill", "island",
    "kettle", "key", "ladder", "lake", "lamp", "leaf", "lemon", "letter", "map", "mirror",
    "needle", "orchard", "paper", "pebble", "river", "saddle", "shell", "spoon", "stone", "table",
    "window",
];

/// Most different words.
pub(super) const MAX: usize = QUALITIES.len() * THINGS.len();

/// `n` different words such as "quiet-lamp", in random order.
///
/// # Panics
///
/// When there are fewer.
pub(super) fn compounds(n: usize, rng: &mut impl Rng) -> Vec<String> {
    assert!(n <= MAX, "words: expected at most {MAX}, found {n}");
    let all = QUALITIES.iter().flat_map(|quality| {
        let things = THINGS.iter();
        things.map(move |thing| format!("{quality}-{thing}"))
    });
    let mut all = all.collect::<Vec<_>>();
    all.shuffle(rng);
    all.truncate(n);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn no_word_is_there_twice_or_within_another() {
        let words = compounds(MAX, &mut StdRng::seed_from_u64(1));
        assert_eq!(words.iter().collect::<HashSet<_>>().len(), MAX);
        // "old-lamp" would be found in "cold-lamp", and "cold-book" in "cold-bookcase".
        let is_end = |a: &&str| QUALITIES.iter().any(|b| b != a && b.ends_with(*a));
        assert_eq!(QUALITIES.iter().find(|word| is_end(word)), None);
        let is_start = |a: &&str| THINGS.iter().any(|b| b != a && b.starts_with(*a));
        assert_eq!(THINGS.iter().find(|word| is_start(word)), None);
    }
}
