use core::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use quest_burn::{cache::PagedKvCache, policy::PagePolicy};

use crate::{
    generation::{GenerateError, chunk_end},
    model::LanguageModel,
};

/// Hidden states of some tokens.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// Where the tokens are in the text.
    pub positions: Vec<usize>,
    /// `[1, tokens, d_model]`
    pub hidden: Tensor<3>,
}

impl Rows {
    /// The rows at some places.
    pub(super) fn select(&self, places: &[usize]) -> Self {
        let index = ints(places, &self.hidden.device());
        Self {
            positions: places.iter().map(|&place| self.positions[place]).collect(),
            hidden: self.hidden.clone().select(1, index),
        }
    }
}

/// Adjacent layers with their cache.
pub(super) struct Layers<'a> {
    pub model: &'a dyn LanguageModel,
    pub layers: Range<usize>,
    pub cache: &'a mut PagedKvCache,
}

impl Layers<'_> {
    /// Prompt rows out of these layers, `chunk` of them at a time, given those that go in. The last chunk goes
    /// through a policy of its own. `progress` is told the rows of each chunk.
    pub(super) fn prefill(
        &mut self,
        rows: Rows,
        chunk: usize,
        [policy, last]: [&dyn PagePolicy; 2],
        mut progress: impl FnMut(usize) -> Result<(), GenerateError>,
    ) -> Result<Rows, GenerateError> {
        let n = rows.positions.len();
        let device = rows.hidden.device();
        let mut hidden = Vec::new();
        let mut end = 0;
        while end < n {
            let start = end;
            end = chunk_end(start, n, chunk);
            let step = self.cache.prefill(&[end - start])?;
            let positions = ints(&rows.positions[start..end], &device);
            let step = step.with_positions(positions.unsqueeze());
            let policy = if end == n { last } else { policy };
            let part = rows.hidden.clone().slice_dim(1, start..end);
            let layers = self.layers.clone();
            hidden.push((self.model).through(part, layers, self.cache, &step, policy));
            progress(end - start)?;
        }
        Ok(Rows {
            positions: rows.positions,
            hidden: Tensor::cat(hidden, 1),
        })
    }

    /// The row of a decoded token out of these layers, `[1, 1, d_model]`.
    pub(super) fn decode(
        &mut self,
        hidden: Tensor<3>,
        position: usize,
        policy: &dyn PagePolicy,
    ) -> Result<Tensor<3>, GenerateError> {
        (self.cache).free_all_but(|layer, sequence| policy.pages_held(layer, sequence))?;
        let step = self.cache.decode()?;
        let step = step.with_positions(ints(&[position], &hidden.device()).unsqueeze());
        let layers = self.layers.clone();
        Ok((self.model).through(hidden, layers, self.cache, &step, policy))
    }
}

/// Numbers on a device.
pub(super) fn ints(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values = values.iter().map(|&v| v as i32).collect::<Vec<_>>();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}
