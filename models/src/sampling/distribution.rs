use super::filters::Candidate;

/// Probabilities of the tokens that may come next; those that it does not name have none.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Ids ascending, with weights that add up to 1.
    probabilities: Vec<(u32, f64)>,
}

impl Distribution {
    /// One token is certain.
    pub fn certain(id: u32) -> Self {
        Self {
            probabilities: vec![(id, 1.0)],
        }
    }

    /// Tokens by their weights, in any order and up to a factor; none where no weight is above 0.
    pub fn of_weights(weights: impl IntoIterator<Item = (u32, f64)>) -> Option<Self> {
        let weights = weights.into_iter().filter(|&(_, weight)| weight > 0.0);
        let mut probabilities = weights.collect::<Vec<_>>();
        probabilities.sort_unstable_by_key(|&(id, _)| id);
        let total = probabilities.iter().map(|&(_, weight)| weight).sum::<f64>();
        for (_, weight) in &mut probabilities {
            *weight /= total;
        }
        (!probabilities.is_empty()).then_some(Self { probabilities })
    }

    pub(super) fn of_candidates(candidates: &[Candidate]) -> Self {
        let weights = candidates.iter().map(|c| (c.id, c.weight()));
        Self::of_weights(weights).expect("every filter keeps the most probable candidate")
    }

    /// The one token that there is, where there is one.
    pub fn only(&self) -> Option<u32> {
        match self.probabilities[..] {
            [(id, _)] => Some(id),
            _ => None,
        }
    }

    /// The probability of a token.
    pub fn probability(&self, id: u32) -> f64 {
        let found = self.probabilities.binary_search_by_key(&id, |&(id, _)| id);
        found.map_or(0.0, |place| self.probabilities[place].1)
    }

    /// What this distribution has more of than another one; none where there is no such token.
    pub fn beyond(&self, other: &Self) -> Option<Self> {
        let more = |&(id, p): &(u32, f64)| (id, p - other.probability(id));
        Self::of_weights(self.probabilities.iter().map(more))
    }

    /// The token at a place of 0 to 1, tokens laid end to end by their probabilities.
    pub fn at(&self, place: f64) -> u32 {
        let mut mass = 0.0;
        let reaches = |&&(_, p): &&(u32, f64)| {
            mass += p;
            place < mass
        };
        let found = self.probabilities.iter().find(reaches);
        // Probabilities add up to 1 but for rounding.
        let last = self.probabilities.last().expect("there is a token");
        found.unwrap_or(last).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_become_probabilities_of_the_ids_that_have_some() {
        let found = Distribution::of_weights([(7, 3.0), (2, 1.0), (5, 0.0)]).unwrap();
        assert_eq!(
            [2, 5, 7, 9].map(|id| found.probability(id)),
            [0.25, 0.0, 0.75, 0.0]
        );
        assert_eq!(Distribution::of_weights([(1, 0.0)]), None);
        assert_eq!(Distribution::of_weights([]), None);
    }

    #[test]
    fn a_place_falls_to_the_token_that_lies_there() {
        let found = Distribution::of_weights([(2, 1.0), (7, 3.0)]).unwrap();
        assert_eq!(
            [0.0, 0.24, 0.26, 0.999, 1.0].map(|p| found.at(p)),
            [2, 2, 7, 7, 7]
        );
        assert_eq!(Distribution::certain(3).at(0.5), 3);
    }

    #[test]
    fn what_one_has_more_of_is_left() {
        let p = Distribution::of_weights([(0, 5.0), (1, 3.0), (2, 2.0)]).unwrap();
        let q = Distribution::of_weights([(0, 2.0), (1, 4.0), (2, 2.0), (3, 2.0)]).unwrap();
        assert_eq!(p.beyond(&q), Some(Distribution::certain(0)));
        assert_eq!(p.beyond(&p), None);
    }
}
