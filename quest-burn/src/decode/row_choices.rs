use burn::tensor::{DType, Device, ExecutionError, Int, Tensor};

use super::device_ints::ints;
use crate::{
    cache::zeros,
    kernels::{self, DecodeState},
};

/// The most probable token after each row of logits, chosen in a recorded pass.
pub(super) struct RowChoices {
    /// As if each row were a sequence's newest token.
    state: Option<DecodeState>,
}

impl RowChoices {
    pub(super) fn new(rows: usize, device: &Device) -> Self {
        let zero = || ints((0..rows).map(|_| 0), device);
        Self {
            state: Some(DecodeState {
                tokens: zero(),
                starts: zero(),
                lengths: zero(),
                history: zeros([rows, 1], device, DType::I32),
            }),
        }
    }

    /// Chooses for the rows that are active, `[rows]`.
    pub(super) fn choose(&mut self, logits: Tensor<2>, active: Tensor<1, Int>) {
        let state = self.state.take().expect(STATE);
        self.state = Some(kernels::next_tokens(logits, active, state));
    }

    /// What was chosen for the first `n` rows; nothing for one whose logits have no answer.
    pub(super) fn read(&self, n: usize) -> Result<Vec<Option<u32>>, ExecutionError> {
        let chosen = self.state.as_ref().expect(STATE).history.clone();
        let chosen = chosen.try_into_data()?.try_to_vec::<i32>();
        let chosen = chosen.expect("the history is in i32");
        let chosen = chosen.into_iter().take(n);
        Ok(chosen.map(|id| u32::try_from(id).ok()).collect())
    }
}

const STATE: &str = "the state is put back after each use";
