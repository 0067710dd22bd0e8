use rand::{Rng, seq::SliceRandom};

const QUALITIES: &[&str] = &[
    "old", "new", "small", "large", "quiet", "loud", "warm", "cold", "bright", "dark", "heavy",
    "light", "clean", "round", "narrow", "soft",
];
const THINGS: &[&str] = &[
    "anchor", "basket", "bell", "book", "bottle", "box", "bridge", "bucket", "camera", "candle",
    "chair", "clock", "coat", "cup", "desk", "flag",
];

/// Most passkeys in one text: as many as there are different owners.
pub(super) const MAX: usize = QUALITIES.len() * THINGS.len();

/// `n` different owners in random order. Many share a word: one word does not tell them apart.
///
/// # Panics
///
/// When there are fewer owners.
pub(super) fn owners(n: usize, rng: &mut impl Rng) -> Vec<String> {
    assert!(n <= MAX, "owners: expected at most {MAX}, found {n}");
    let all = QUALITIES.iter().flat_map(|quality| {
        let things = THINGS.iter();
        things.map(move |thing| format!("the {quality} {thing}"))
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
    fn no_two_owners_are_the_same_and_the_seed_decides_which_come() {
        let of_seed = |seed| owners(MAX, &mut StdRng::seed_from_u64(seed));
        assert_eq!(of_seed(1).into_iter().collect::<HashSet<_>>().len(), MAX);
        assert_eq!(of_seed(1), of_seed(1));
        assert_ne!(of_seed(1), of_seed(2));
    }
}
