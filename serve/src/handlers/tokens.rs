use std::sync::Arc;

use axum::{
    extract::{self, Request},
    http::StatusCode,
    response::Response,
};

use super::answers::text_error;
use crate::{
    body,
    error::{ApiError, ErrorBody, json},
    request::{self, TokenizeRequest, Tokenized},
    response::{Detokenized, Tokens},
    schema::{DetokenizeParameters, TokenizeParameters},
    state::State,
    text::Text,
};

/// Token ids of a text, or of messages.
#[utoipa::path(
    post, path = "/tokenize", tag = "Tokens",
    request_body = TokenizeParameters,
    responses((status = 200, body = Tokens, description = "Token ids"), (status = "4XX", body = ErrorBody, description = "What is wrong with the request"))
)]
pub(crate) async fn tokenize(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = body::read(request, &state.config.limits).await?;
    let request = TokenizeRequest::parse(&body, &state.model)?;
    let param = match &request.what {
        Tokenized::Text { .. } => "prompt",
        Tokenized::Chat(_) => "messages",
    };
    let work = move |text: &dyn Text| {
        let ids = match &request.what {
            Tokenized::Text {
                text: prompt,
                special_tokens,
                parse_special,
            } => text.encode(prompt, *special_tokens, *parse_special)?,
            Tokenized::Chat(conversation) => text.chat(conversation)?,
        };
        let strings = || ids.iter().map(|id| text.piece(*id)).collect::<Vec<_>>();
        let strings = request.return_token_strs.then(strings);
        Ok((ids, strings))
    };
    let (tokens, token_strs) = state
        .with_text(work)
        .await?
        .map_err(|e| text_error(param, e))?;
    let tokens = Tokens {
        count: tokens.len(),
        tokens,
        max_model_len: state.model.max_context,
        token_strs,
    };
    Ok(json(StatusCode::OK, &tokens))
}

/// The text of token ids.
#[utoipa::path(
    post, path = "/detokenize", tag = "Tokens",
    request_body = DetokenizeParameters,
    responses((status = 200, body = Detokenized, description = "Text"), (status = "4XX", body = ErrorBody, description = "What is wrong with the request"))
)]
pub(crate) async fn detokenize(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = body::read(request, &state.config.limits).await?;
    let ids = request::detokenize(&body, &state.model)?;
    let text = state.with_text(move |text| text.decode(&ids)).await?;
    let prompt = text.map_err(|error| text_error("tokens", error))?;
    Ok(json(StatusCode::OK, &Detokenized { prompt }))
}
