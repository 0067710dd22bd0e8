//! Seeds of trials that do not depend on one another.

/// The seed of a trial, from that of the run and what tells the trial apart.
pub(crate) fn of_trial(seed: u64, parts: impl IntoIterator<Item = usize>) -> u64 {
    parts.into_iter().fold(seed, |seed, part| {
        (seed ^ part as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_have_seeds_of_their_own() {
        assert_eq!(of_trial(3, []), 3);
        assert_ne!(of_trial(3, [1, 2]), of_trial(3, [2, 1]));
        assert_ne!(of_trial(3, [1, 2]), of_trial(4, [1, 2]));
    }
}
