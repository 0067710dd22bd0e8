use core::ops::Range;
use std::{collections::BTreeMap, sync::Arc};

/// How uncertain a model was about the tokens of each sequence: entropies in nats of the distributions that
/// followed its tokens, where they were noted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entropies {
    /// By the number of tokens before. Shared with steps, which see what was noted before them.
    of_sequence: Arc<Vec<BTreeMap<usize, f32>>>,
}

impl Entropies {
    /// Notes the entropy of what followed the first `length` tokens.
    pub(crate) fn note(&mut self, sequence: usize, length: usize, entropy: f32) {
        let of_sequence = Arc::make_mut(&mut self.of_sequence);
        if of_sequence.len() <= sequence {
            of_sequence.resize(sequence + 1, BTreeMap::new());
        }
        of_sequence[sequence].insert(length, entropy);
    }

    /// Forgets what followed tokens behind the first `length`.
    pub(crate) fn truncate(&mut self, sequence: usize, length: usize) {
        if self
            .of_sequence
            .get(sequence)
            .is_some_and(|of| !of.is_empty())
        {
            Arc::make_mut(&mut self.of_sequence)[sequence].split_off(&(length + 1));
        }
    }

    /// What was noted after the tokens at these positions.
    pub(crate) fn after(&self, sequence: usize, positions: Range<usize>) -> Vec<f32> {
        let lengths = positions.start + 1..positions.end + 1;
        let of_sequence = self.of_sequence.get(sequence);
        of_sequence.map_or_else(Vec::new, |of| of.range(lengths).map(|(_, &h)| h).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropies_are_those_after_tokens_until_these_are_forgotten() {
        let mut entropies = Entropies::default();
        assert!(entropies.after(0, 0..9).is_empty());
        entropies.truncate(0, 3);
        for (length, entropy) in [(3, 0.5), (4, 1.5), (6, 2.5)] {
            entropies.note(1, length, entropy);
        }
        let before = entropies.clone();
        assert_eq!(entropies.after(1, 2..4), [0.5, 1.5]);
        assert_eq!(entropies.after(1, 4..9), [2.5]);
        entropies.truncate(1, 4);
        assert_eq!(entropies.after(1, 0..9), [0.5, 1.5]);
        assert_eq!(
            before.after(1, 0..9),
            [0.5, 1.5, 2.5],
            "a step keeps its own"
        );
        assert!(entropies.after(0, 0..9).is_empty());
    }
}
