//! Sessions that are prefilled once and asked through several policies.

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
        .with_digest_storage(model.digest_storage())
        .with_kv_storage(model.kv_storage());
    Session::with_cache(model, &cache)
}

/// Feeds the end of a prompt token by token through the session's policy, and continues with the most probable
/// tokens: as many as are asked for, or up to one of `stop_ids`.
///
/// # Errors
///
/// When there is nothing to feed, an id is outside the vocabulary, the cache is full, or the device
/// fails.
pub(crate) fn ask(
    session: &mut Session,
    tail: &[u32],
    tokens: usize,
    stop_ids: &[u32],
) -> Result<Vec<u32>, GenerateError> {
    for &id in tail {
        session.decode(id)?;
    }
    let mut answer = Vec::with_capacity(tokens);
    while answer.len() < tokens {
        let id = session.most_probable()?;
        answer.push(id);
        if stop_ids.contains(&id) || answer.len() == tokens {
            break;
        }
        session.decode(id)?;
    }
    Ok(answer)
}

/// The tokenizer, for an experiment that cannot do without.
///
/// # Errors
///
/// When there is none.
pub fn require_tokenizer(tokenizer: Option<&Tokenizer>) -> Result<&Tokenizer, ExperimentError> {
    tokenizer.ok_or_else(|| {
        let expected = format!("{} next to the weights", Tokenizer::FILE);
        ExperimentError::setting("tokenizer", expected, "none")
    })
}
