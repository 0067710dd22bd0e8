//! Tokens given to a session: prompts, single tokens, texts that are scored.

use crate::{
    generation::{Forward, GenerateError, LikelihoodMode, Policies, check_ids, read, score},
    sampling::SamplingConfig,
};

use super::Session;

/// Tokens of a prompt that go through the model at once where nothing else is asked for.
const CHUNK: usize = 512;

impl Session {
    /// Appends prompt tokens.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    pub fn feed(&mut self, ids: &[u32]) -> Result<(), GenerateError> {
        self.prefill_with(ids, CHUNK, None)
    }

    /// The same, `chunk` tokens at a time; `progress` is told how many are done. Who stops feeding
    /// between two calls can go on later.
    ///
    /// # Errors
    ///
    /// When there are no ids, an id is outside the vocabulary, the chunk is empty, there is no room,
    /// or the device fails.
    pub fn prefill(
        &mut self,
        ids: &[u32],
        chunk: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), GenerateError> {
        self.prefill_with(ids, chunk, Some(progress))?;
        self.sync()
    }

    fn prefill_with(
        &mut self,
        ids: &[u32],
        chunk: usize,
        progress: Option<&mut dyn FnMut(usize)>,
    ) -> Result<(), GenerateError> {
        let mut fed = self.ids[self.cached()..].to_vec();
        fed.extend_from_slice(ids);
        check_ids(&fed, self.model.model().vocab_size())?;
        self.make_room(self.ids.len() + ids.len(), 0)?;
        let last = match progress {
            None => self.forward().prefill(&fed, chunk, None),
            Some(progress) => self.forward().prefill(
                &fed,
                chunk,
                Some(&mut |done| {
                    progress(done);
                    Ok(())
                }),
            ),
        };
        self.last = Some(self.or_back(last)?);
        self.ids.extend_from_slice(ids);
        Ok(())
    }

    /// Appends one token, which attends to what the policy chooses.
    ///
    /// # Errors
    ///
    /// When the id is outside the vocabulary, there is no room, or the device fails.
    pub fn decode(&mut self, id: u32) -> Result<(), GenerateError> {
        check_ids(&[id], self.model.model().vocab_size())?;
        self.make_room(self.ids.len() + 1, 0)?;
        self.ids.push(id);
        while self.cached() < self.ids.len() {
            let id = self.ids[self.cached()];
            self.last = Some(self.forward().decode(id)?);
        }
        Ok(())
    }

    /// Logits of the token after those that were [fed](Self::feed) or [decoded](Self::decode) last.
    ///
    /// # Errors
    ///
    /// When nothing was fed since the session was made, went back or generated; when the device
    /// fails.
    pub fn logits(&mut self) -> Result<Vec<f32>, GenerateError> {
        let hidden = self.last.clone().ok_or(GenerateError::NothingFed)?;
        Ok(read(self.forward().logits(hidden)?)?)
    }

    /// The most probable token by these logits, the lowest id of several. It is not appended.
    ///
    /// # Errors
    ///
    /// As [`logits`](Self::logits), and when they have no answer.
    pub fn most_probable(&mut self) -> Result<u32, GenerateError> {
        let logits = self.logits()?;
        let length = self.cached();
        let id = SamplingConfig::new().init()?.sample(&logits);
        id.map_err(|source| GenerateError::Sample { length, source })
    }

    /// Negative log-likelihood of each scored id given all before it, in nats. All of the ids but the
    /// last are appended. `progress` is told how many are scored.
    ///
    /// # Errors
    ///
    /// When the mode does not fit the ids or the prompts of the session, an id is outside the vocabulary, there is
    /// no room, a likelihood is not a finite number, or the device fails.
    pub fn likelihoods(
        &mut self,
        ids: &[u32],
        mode: LikelihoodMode,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f32>, GenerateError> {
        mode.check(ids.len())?;
        if self.cached() < self.ids.len() {
            self.feed(&[])?;
        }
        let fed = &ids[..ids.len() - 1];
        self.make_room(self.ids.len() + fed.len(), 0)?;
        self.last = None;
        let scores = score(self.forward(), ids, mode, progress);
        let scores = self.or_back(scores)?;
        self.ids.extend_from_slice(fed);
        Ok(scores)
    }

    pub(super) fn forward(&mut self) -> Forward<'_> {
        Forward {
            model: self.model.model(),
            cache: &mut self.cache,
            policies: Policies {
                prefill: &*self.prefill_policy,
                decode: &*self.policy,
            },
            stages: self.stages.as_mut(),
        }
    }

    /// Takes what was computed, or forgets the tokens that were fed for it.
    fn or_back<T>(&mut self, computed: Result<T, GenerateError>) -> Result<T, GenerateError> {
        if computed.is_err() && self.cached() > self.ids.len() {
            self.go_back(self.ids.len())?;
        }
        computed
    }
}
