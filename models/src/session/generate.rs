//! Tokens that a session generates, as ids and as text.

use crate::{
    generation::{GenerateError, GenerationConfig, Policies, check_context},
    tokenizer::Tokenizer,
};

use super::{IdStream, Session, TextStream, new_ids::NewIds};

impl Session {
    /// Appends a text and goes on from it: an iterator of the new text, piece by piece. A text that
    /// follows others has no token of a beginning.
    ///
    /// # Errors
    ///
    /// As [`generate_ids`](Self::generate_ids), and when the model has no tokenizer or the text
    /// cannot be encoded.
    pub fn generate(
        &mut self,
        text: &str,
        config: GenerationConfig,
    ) -> Result<TextStream<'_>, GenerateError> {
        let tokenizer = self.tokenizer()?;
        let ids = match self.is_empty() {
            true => tokenizer.encode(text)?,
            false => tokenizer.encode_continuation(text)?,
        };
        self.generate_ids(&ids, config)?.into_text()
    }

    /// Appends ids and goes on from them: an iterator of the new ids, which are appended too.
    /// Without ids it goes on from where the session is.
    ///
    /// # Errors
    ///
    /// When there is nothing to go on from, an id is outside the vocabulary, there is no room in the
    /// context or the cache, or the configuration is invalid. Nothing was computed then, and the
    /// session is as before.
    pub fn generate_ids(
        &mut self,
        ids: &[u32],
        mut config: GenerationConfig,
    ) -> Result<IdStream<'_>, GenerateError> {
        if config.stop_ids.is_none() {
            config.stop_ids = Some(self.model.stop_ids().to_vec());
        }
        let mut prompt = self.ids[self.cached()..].to_vec();
        prompt.extend_from_slice(ids);
        // The logits after the last token are those of feeding it.
        let again = self.ids.last().filter(|_| prompt.is_empty()).copied();
        prompt.extend(again);
        config.check(&prompt, self.model.model().vocab_size())?;
        let length = self.ids.len() + ids.len();
        check_context(length, config.max_new_tokens, config.max_context)?;
        self.make_room(length, config.max_new_tokens)?;
        if again.is_some() {
            self.go_back(self.ids.len() - 1)?;
        }
        self.last = None;
        let stop_strings = config.stop_strings.clone();
        let policies = Policies {
            prefill: &*self.prefill_policy,
            decode: &*self.policy,
        };
        let (model, cache) = (self.model.model(), &mut self.cache);
        let mut new = NewIds::new(model, cache, policies, &prompt, config, self.lossless)?;
        if let Some(stages) = &mut self.stages {
            new = new.with_stages(stages)?;
        }
        new.observe(&self.ids);
        let before_prompt = self.ids.len();
        self.ids.extend_from_slice(ids);
        Ok(IdStream::new(
            new,
            &mut self.ids,
            before_prompt,
            &mut self.timings,
            self.model.tokenizer(),
            stop_strings,
        ))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, GenerateError> {
        self.model.tokenizer().ok_or(GenerateError::NoTokenizer)
    }
}
