use std::collections::HashSet;

use burn::tensor::Tensor;
use quest_burn::{
    FixedPoint,
    cache::PagedKvCache,
    policy::{PagePolicy, PositionedPrefill},
};

use super::{
    LaterStages,
    rows::{Layers, Rows, ints},
    stages::Stage,
    worth::{Listening, least},
};
use crate::{
    generation::{GenerateError, rows},
    model::LanguageModel,
};

/// Tokens that come back and go through the model at once.
const CHUNK: usize = 512;

impl LaterStages {
    /// Hidden state of one more token, `[1, 1, d_model]`. It attends to what each stage holds, and before that
    /// tokens come back that it needs there.
    pub(crate) fn decode(
        &mut self,
        model: &dyn LanguageModel,
        first: &mut PagedKvCache,
        policy: &dyn PagePolicy,
        id: u32,
    ) -> Result<Tensor<3>, GenerateError> {
        if self.config.revival.is_some() && policy.frees_pages() {
            return Err(GenerateError::LazyFreedPages);
        }
        let position = first.lengths()[0];
        let mut hidden = model.embedded(rows(vec![vec![id]], 1, model));
        // Positions of the tokens of the stage before that are needed in the next one.
        let mut needed = Vec::new();
        let last = self.stages.len();
        for index in 0..=last {
            let mut layers = match index.checked_sub(1) {
                None => Layers {
                    model,
                    layers: self.first(),
                    cache: &mut *first,
                },
                Some(index) => {
                    if let Some(revived) = self.stages[index].revive(model, &needed, position)?
                        && let Some(next) = self.stages.get_mut(index + 1)
                    {
                        next.left.add(revived);
                    }
                    let stage = &mut self.stages[index];
                    match policy.frees_pages() {
                        true => stage.cache.grow_on_demand(first.config().max_pages()),
                        false => stage.make_room(1),
                    }
                    stage.positions.push(position);
                    stage.computed_for.push(position);
                    stage.layers(model)
                }
            };
            let Some(rate) = self.config.revival.filter(|_| index < last) else {
                hidden = layers.decode(hidden, position, policy)?;
                continue;
            };
            let listening = Listening::new(policy, layers.layers.end - 1, 1);
            hidden = layers.decode(hidden, position, &listening)?;
            let worth = listening.worth()?;
            needed = match index.checked_sub(1) {
                None => most(&(0..=position).collect::<Vec<_>>(), &worth, rate),
                Some(index) => most(&self.stages[index].positions, &worth, rate),
            };
        }
        Ok(model.normed(hidden))
    }
}

/// The positions of all but a share of the tokens, those of least worth.
fn most(positions: &[usize], worth: &[f32], rate: FixedPoint) -> Vec<usize> {
    let candidates = positions.iter().zip(worth).enumerate();
    let candidates = candidates.map(|(place, (&position, &worth))| (place, worth, position));
    let unneeded = least(candidates, rate.floor_of(positions.len()));
    let places = (0..positions.len()).filter(|place| unneeded.binary_search(place).is_err());
    places.map(|place| positions[place]).collect()
}

impl Stage {
    pub(super) fn layers<'a>(&'a mut self, model: &'a dyn LanguageModel) -> Layers<'a> {
        Layers {
            model,
            layers: self.layers.clone(),
            cache: &mut self.cache,
        }
    }

    /// Computes those of some tokens that left before this stage and have not come back, for a decoded token: what
    /// comes out of it.
    fn revive(
        &mut self,
        model: &dyn LanguageModel,
        positions: &[usize],
        decoded: usize,
    ) -> Result<Option<Rows>, GenerateError> {
        let held = self.positions.iter().copied().collect::<HashSet<_>>();
        let missing = positions.iter().copied();
        let missing = missing.filter(|position| !held.contains(position));
        let Some(rows) = self.left.at(missing) else {
            return Ok(None);
        };
        self.make_room(rows.positions.len());
        self.positions.extend(&rows.positions);
        self.computed_for.resize(self.positions.len(), decoded);
        let policy = PositionedPrefill::new(ints(&self.positions, &rows.hidden.device()));
        let policies: [&dyn PagePolicy; 2] = [&policy; 2];
        let revived = (self.layers(model)).prefill(rows, CHUNK, policies, |_| Ok(()))?;
        Ok(Some(revived))
    }
}
