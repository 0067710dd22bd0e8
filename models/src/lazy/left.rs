use std::collections::{HashMap, HashSet};

use burn::tensor::Tensor;

use super::rows::Rows;

/// Tokens that left before a stage, with their hidden states, so that they can be computed there later: the paper's
/// auxiliary cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Left {
    rows: Option<Rows>,
}

impl Left {
    /// Adds tokens, none of which is here.
    pub(super) fn add(&mut self, new: Rows) {
        if new.positions.is_empty() {
            return;
        }
        self.rows = Some(match self.rows.take() {
            None => new,
            Some(mut rows) => {
                rows.positions.extend(new.positions);
                rows.hidden = Tensor::cat(vec![rows.hidden, new.hidden], 1);
                rows
            }
        });
    }

    /// The tokens at some positions that left, in the order of their positions; none where none of them did.
    pub(super) fn at(&self, positions: impl Iterator<Item = usize>) -> Option<Rows> {
        let rows = self.rows.as_ref()?;
        let places = rows.positions.iter().enumerate();
        let places = places
            .map(|(place, &position)| (position, place))
            .collect::<HashMap<_, _>>();
        let mut wanted = positions
            .filter_map(|position| Some((position, *places.get(&position)?)))
            .collect::<Vec<_>>();
        wanted.sort_unstable();
        let wanted = wanted
            .into_iter()
            .map(|(_, place)| place)
            .collect::<Vec<_>>();
        (!wanted.is_empty()).then(|| rows.select(&wanted))
    }

    /// Forgets all but the tokens at some positions.
    pub(super) fn keep(&mut self, positions: &HashSet<usize>) {
        let Some(rows) = self.rows.take() else {
            return;
        };
        let places = (0..rows.positions.len())
            .filter(|&place| positions.contains(&rows.positions[place]))
            .collect::<Vec<_>>();
        self.rows = match places.len() {
            0 => None,
            n if n == rows.positions.len() => Some(rows),
            _ => Some(rows.select(&places)),
        };
    }

    /// Bytes of the hidden states.
    pub(super) fn bytes(&self) -> u64 {
        self.rows.as_ref().map_or(0, |rows| {
            let elements = rows.hidden.dims().iter().product::<usize>();
            (elements * rows.hidden.dtype().size()) as u64
        })
    }
}
