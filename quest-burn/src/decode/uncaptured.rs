use burn::tensor::{Int, Tensor, TensorData};

use super::{DecodeError, DecodeModel, graph::read_rows, greedy::most_probable, run::Run};
use crate::cache::{CacheError, PagedKvCache};

/// A model that runs step by step, with everything but its tensors on the host.
pub(super) struct Uncaptured<'a> {
    model: Box<dyn DecodeModel + 'a>,
    cache: &'a mut PagedKvCache,
    active: Vec<bool>,
    /// Newest token of each sequence, unless `logits` say what it is.
    tokens: Vec<u32>,
    /// Logits of the last step from which no token was chosen yet.
    logits: Option<Tensor<2>>,
    last_logits: Option<Tensor<2>>,
}

impl<'a> Uncaptured<'a> {
    pub(super) fn new(
        model: Box<dyn DecodeModel + 'a>,
        cache: &'a mut PagedKvCache,
        tokens: Vec<u32>,
    ) -> Self {
        Self {
            active: vec![true; cache.batch()],
            model,
            cache,
            tokens,
            logits: None,
            last_logits: None,
        }
    }

    fn choose(&mut self) -> Result<(), DecodeError> {
        let Some(logits) = self.logits.take() else {
            return Ok(());
        };
        let rows = read_rows(logits)?;
        for (sequence, row) in rows.iter().enumerate().filter(|&(i, _)| self.active[i]) {
            self.tokens[sequence] = most_probable(row).ok_or(DecodeError::Logits {
                sequence,
                length: self.cache.lengths()[sequence],
            })?;
        }
        Ok(())
    }
}

impl Run for Uncaptured<'_> {
    fn prepare(&mut self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn advance(&mut self) -> Result<(), DecodeError> {
        self.choose()?;
        let batch = self.tokens.len();
        let step = self.cache.decode_active(&self.active)?;
        let ids = self.tokens.iter().map(|&id| id as i32).collect::<Vec<_>>();
        let device = step.positions().device();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, 1]), &device);
        let logits = self.model.logits(ids, self.cache, &step);
        self.logits = Some(logits.clone());
        self.last_logits = Some(logits);
        Ok(())
    }

    fn run(&mut self, n: usize) -> Result<Vec<Vec<u32>>, DecodeError> {
        let mut tokens = vec![Vec::with_capacity(n); self.active.len()];
        for _ in 0..n {
            self.advance()?;
            self.choose()?;
            for (sequence, tokens) in tokens.iter_mut().enumerate() {
                if self.active[sequence] {
                    tokens.push(self.tokens[sequence]);
                }
            }
        }
        Ok(tokens)
    }

    fn feed(&mut self, tokens: &[u32]) {
        self.tokens.copy_from_slice(tokens);
        self.logits = None;
    }

    fn stop(&mut self, sequence: usize) -> Result<(), CacheError> {
        let batch = self.active.len();
        let active = self.active.get_mut(sequence);
        *active.ok_or(CacheError::Sequence { sequence, batch })? = false;
        Ok(())
    }

    fn logits(&self) -> Option<Tensor<2>> {
        self.last_logits.clone()
    }

    fn active(&self) -> &[bool] {
        &self.active
    }

    fn lengths(&self) -> Vec<usize> {
        self.cache.lengths().to_vec()
    }

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn is_hardware(&self) -> bool {
        false
    }

    fn recordings(&self) -> usize {
        0
    }
}
