//! What a session holds: aligned with other ids, gone back in, copied.

use quest_burn::cache::CacheError;

use crate::{
    generation::{GenerateError, Timings},
    lazy::LaterStages,
};

use super::Session;

impl Session {
    /// Makes what the session holds the beginning of `ids`: keeps the tokens that both begin with,
    /// forgets those behind them, and says how many stay. Those of `ids` from there on are to be fed;
    /// at least one is. Of a sequence whose policy has freed pages, those before the first of them stay at most.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn align(&mut self, ids: &[u32]) -> Result<usize, GenerateError> {
        let both = self.ids.iter().zip(ids);
        let common = both.take_while(|(held, new)| held == new).count();
        let kept = common.min(ids.len().saturating_sub(1));
        let kept = match self.cache.tokens_before_freed(0) {
            Some(whole) => kept.min(whole),
            None => kept,
        };
        self.truncate(kept)?;
        Ok(kept)
    }

    /// Goes back to the first `length` tokens: the cache, with its digests, is as it was then. What
    /// policies remember is forgotten; the tokens that stay count as a prompt. What had left of it stays out.
    ///
    /// # Errors
    ///
    /// When there are fewer.
    pub fn truncate(&mut self, length: usize) -> Result<(), GenerateError> {
        if length > self.ids.len() {
            return Err(GenerateError::Cache(CacheError::Length {
                sequence: 0,
                current: self.ids.len(),
                length,
            }));
        }
        if length <= self.cached() {
            self.go_back(length)?;
        }
        self.ids.truncate(length);
        self.last = None;
        Ok(())
    }

    /// A session of its own that holds the same.
    pub fn fork(&self) -> Self {
        Self {
            model: self.model.clone(),
            policy: self.policy.clone(),
            prefill_policy: self.prefill_policy.clone(),
            lossless: self.lossless,
            cache: self.cache.fork(),
            stages: self.stages.as_ref().map(LaterStages::fork),
            limit: self.limit,
            ids: self.ids.clone(),
            last: self.last.clone(),
            timings: Timings::default(),
        }
    }
}
