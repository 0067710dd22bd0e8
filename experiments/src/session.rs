//! Sessions that are prefilled once and reused by several policies.

use quest_burn_models::{
    generation::GenerateError, local::LocalModel, session::Session, tokenizer::Tokenizer,
};

use crate::ExperimentError;

/// A session with room for `tokens` tokens in pages of `page_size`.
///
/// # Errors
///
/// When the cache cannot be made: there is no room to be made, or the page size, or the head dim with
/// the model's form of digests, is not one that is supported.
pub(crate) fn session_of(
    model: &LocalModel,
    tokens: usize,
    page_size: usize,
) -> Result<Session, GenerateError> {
    let cache = model.config().cache(page_size, 1, tokens);
    let cache = cache
        .with_digest(model.digest())
        .with_digest_storage(model.digest_storage());
    Session::with_cache(model, &cache)
}

/// The tokenizer, for an experiment that cannot do without.
///
/// # Errors
///
/// When there is none.
pub fn require_tokenizer(tokenizer: Option<&Tokenizer>) -> Result<&Tokenizer, ExperimentError> {
    tokenizer.ok_or_else(|| {
        let expected = format!("{} beside the weights", Tokenizer::FILE);
        ExperimentError::setting("tokenizer", expected, "none")
    })
}
