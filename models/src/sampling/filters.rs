use std::{cmp::Ordering, collections::BTreeSet};

/// A token that may still be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    /// Logarithm of the probability, up to a constant; the most probable candidate has 0.
    pub score: f64,
}

impl Candidate {
    /// Probability as a share of the highest.
    pub(super) fn weight(&self) -> f64 {
        self.score.exp()
    }

    /// Most probable first, then the lower id. Not `total_cmp`, to which -0 is below 0.
    fn order(&self, other: &Self) -> Ordering {
        other
            .score
            .partial_cmp(&self.score)
            .expect("NaN is refused before candidates are made")
            .then(self.id.cmp(&other.id))
    }
}

/// Makes tokens that occurred before less probable (more, when `penalty` is below 1).
pub(super) fn repetition_penalty(logits: &mut [f64], seen: &BTreeSet<u32>, penalty: f64) {
    for &id in seen {
        let logit = &mut logits[id as usize];
        *logit = if *logit < 0.0 {
            *logit * penalty
        } else {
            *logit / penalty
        };
    }
}

/// Keeps exactly `k` candidates. (Transformers keeps every candidate that ties with the last.)
pub(super) fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, Candidate::order);
        candidates.truncate(k);
    }
}

/// Keeps the fewest candidates whose probabilities add up to `p`, the most probable first
/// ([nucleus sampling](https://arxiv.org/abs/1904.09751)).
pub(super) fn top_p(candidates: &mut Vec<Candidate>, p: f64) {
    if p >= 1.0 {
        return;
    }
    let total = candidates.iter().map(Candidate::weight).sum::<f64>();
    // Candidates this improbable hold less than 1 - p together, even if all were: none of them is
    // among the kept, and the sort is over a few candidates instead of the vocabulary.
    let negligible = (1.0 - p) * total / candidates.len() as f64;
    candidates.retain(|candidate| candidate.weight() >= negligible);
    candidates.sort_unstable_by(Candidate::order);
    let mut mass = 0.0;
    let kept = candidates.iter().take_while(|candidate| {
        let is_kept = mass < p * total;
        mass += candidate.weight();
        is_kept
    });
    let kept = kept.count();
    candidates.truncate(kept);
}

/// Keeps candidates of at least `p` times the highest probability
/// ([min-p](https://arxiv.org/abs/2407.01082)).
pub(super) fn min_p(candidates: &mut Vec<Candidate>, p: f64) {
    let lowest = p.ln();
    candidates.retain(|candidate| candidate.score >= lowest);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Candidates of these probabilities, ids in order.
    fn candidates(probabilities: &[f64]) -> Vec<Candidate> {
        let highest = probabilities.iter().copied().fold(0.0, f64::max);
        let scores = probabilities.iter().map(|p| (p / highest).ln());
        scores
            .zip(0..)
            .map(|(score, id)| Candidate { id, score })
            .collect()
    }

    fn sorted_ids(candidates: &[Candidate]) -> Vec<u32> {
        let ids = candidates.iter().map(|candidate| candidate.id);
        ids.collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[test]
    fn repetition_penalty_moves_seen_logits_towards_improbable() {
        let mut logits = [2.0, -2.0, 3.0, 0.0];
        repetition_penalty(&mut logits, &BTreeSet::from([0, 1, 3]), 2.0);
        assert_eq!(logits, [1.0, -4.0, 3.0, 0.0]);
    }

    #[test]
    fn top_k_keeps_k_and_prefers_lower_ids_among_equals() {
        let mut kept = candidates(&[0.1, 0.3, 0.2, 0.2, 0.2]);
        top_k(&mut kept, 3);
        assert_eq!(sorted_ids(&kept), [1, 2, 3]);
        top_k(&mut kept, 9);
        assert_eq!(kept.len(), 3);
    }

    #[test]
    fn top_p_keeps_the_candidate_that_crosses_the_mass() {
        let probabilities = [0.05, 0.5, 0.15, 0.3];
        for (p, expected) in [
            (0.4, vec![1]),
            (0.6, vec![1, 3]),
            (0.79, vec![1, 3]),
            (0.9, vec![1, 2, 3]),
            (0.96, vec![0, 1, 2, 3]),
            (1.0, vec![0, 1, 2, 3]),
        ] {
            let mut kept = candidates(&probabilities);
            top_p(&mut kept, p);
            assert_eq!(sorted_ids(&kept), expected, "p = {p}");
        }
    }

    #[test]
    fn top_p_keeps_one_candidate_at_least_and_lower_ids_among_equals() {
        let mut kept = candidates(&[0.25; 4]);
        top_p(&mut kept, 1e-9);
        assert_eq!(sorted_ids(&kept), [0]);
        let mut kept = candidates(&[0.25; 4]);
        top_p(&mut kept, 0.6);
        assert_eq!(sorted_ids(&kept), [0, 1, 2]);
    }

    #[test]
    fn min_p_is_relative_to_the_highest_probability() {
        let probabilities = [0.05, 0.5, 0.15, 0.3];
        for (p, expected) in [
            (0.0, vec![0, 1, 2, 3]),
            (0.2, vec![1, 2, 3]),
            (0.5, vec![1, 3]),
            (1.0, vec![1]),
        ] {
            let mut kept = candidates(&probabilities);
            min_p(&mut kept, p);
            assert_eq!(sorted_ids(&kept), expected, "p = {p}");
        }
    }
}
