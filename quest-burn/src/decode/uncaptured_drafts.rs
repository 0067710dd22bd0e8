use burn::tensor::{Int, Tensor, TensorData};

use super::{DecodeError, DecodeModel, graph::read_rows, greedy::most_probable};
use crate::cache::{CacheError, PagedKvCache, Step};

/// Drafts and passes that are launched anew each time.
pub(super) struct UncapturedDrafts<'a> {
    model: Box<dyn DecodeModel + 'a>,
    cache: &'a mut PagedKvCache,
    /// Tokens of the sequence before drafts and passes.
    kept: usize,
    /// Logits of the last pass.
    logits: Option<Tensor<2>>,
}

impl<'a> UncapturedDrafts<'a> {
    pub(super) fn new(model: Box<dyn DecodeModel + 'a>, cache: &'a mut PagedKvCache) -> Self {
        Self {
            kept: cache.lengths()[0],
            model,
            cache,
            logits: None,
        }
    }

    pub(super) fn draft(&mut self, token: u32) -> Result<Tensor<2>, DecodeError> {
        let step = self.cache.decode()?;
        Ok(self.pass(&[token], &step))
    }

    pub(super) fn draft_most_probable(
        &mut self,
        token: u32,
        n: usize,
    ) -> Result<Vec<u32>, DecodeError> {
        let mut drafts = Vec::with_capacity(n);
        let mut newest = token;
        for _ in 0..n {
            let logits = read_rows(self.draft(newest)?)?;
            newest = most_probable(&logits[0]).ok_or(DecodeError::Logits {
                sequence: 0,
                length: self.cache.lengths()[0],
            })?;
            drafts.push(newest);
        }
        Ok(drafts)
    }

    pub(super) fn undo_drafts(&mut self) -> Result<(), DecodeError> {
        if self.cache.lengths()[0] > self.kept {
            self.cache.truncate(0, self.kept)?;
        }
        Ok(())
    }

    pub(super) fn verify(&mut self, tokens: &[u32]) -> Result<(), DecodeError> {
        let step = self.cache.prefill(&[tokens.len()])?;
        self.logits = Some(self.pass(tokens, &step));
        Ok(())
    }

    fn pass(&mut self, tokens: &[u32], step: &Step) -> Tensor<2> {
        let ids = tokens.iter().map(|&id| id as i32).collect::<Vec<_>>();
        let ids = TensorData::new(ids, [1, tokens.len()]);
        let ids = Tensor::<2, Int>::from_data(ids, &step.positions().device());
        self.model.logits(ids, self.cache, step)
    }

    pub(super) fn most_probable(&self, n: usize) -> Result<Vec<Option<u32>>, DecodeError> {
        let rows = read_rows(self.logits())?;
        Ok(rows.iter().take(n).map(|row| most_probable(row)).collect())
    }

    pub(super) fn logits(&self) -> Tensor<2> {
        self.logits.clone().expect("tokens were verified")
    }

    pub(super) fn keep(&mut self, n: usize) -> Result<(), DecodeError> {
        self.kept += n;
        Ok(self.cache.truncate(0, self.kept)?)
    }

    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    pub(super) fn finish(&mut self, length: usize) -> Result<(), CacheError> {
        match self.cache.lengths()[0] == length {
            true => Ok(()),
            false => self.cache.truncate(0, length),
        }
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }
}
