use serde_json::Value;

use super::{
    chat::variables, completion::ids, generation::check_model, messages::messages, params::Params,
    tools::describe,
};
use crate::{config::ModelInfo, error::ApiError, text::Conversation};

/// A request of `/tokenize`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenizeRequest {
    pub what: Tokenized,
    pub return_token_strs: bool,
}

/// What becomes tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tokenized {
    Text {
        text: String,
        special_tokens: bool,
        parse_special: bool,
    },
    Chat(Conversation),
}

impl TokenizeRequest {
    pub(crate) fn parse(body: &[u8], model: &ModelInfo) -> Result<Self, ApiError> {
        let mut params = Params::parse(body)?;
        check_model(&mut params, model)?;
        let return_token_strs = params.boolean("return_token_strs")?.unwrap_or(false);
        let what = match (params.text("prompt")?, params.array("messages")?) {
            (Some(text), None) => Tokenized::Text {
                text,
                special_tokens: params.boolean("add_special_tokens")?.unwrap_or(true),
                parse_special: params.boolean("parse_special")?.unwrap_or(false),
            },
            (None, Some(list)) => Tokenized::Chat(Conversation {
                messages: messages(list)?,
                tools: describe(&mut params)?.0,
                add_generation_prompt: params.boolean("add_generation_prompt")?.unwrap_or(true),
                variables: variables(&mut params)?,
            }),
            (Some(_), Some(_)) => {
                return Err(ApiError::param("prompt", "expected none beside `messages`"));
            }
            (None, None) => {
                return Err(ApiError::param(
                    "prompt",
                    "expected text or `messages`, found none",
                ));
            }
        };
        params.finish()?;
        Ok(Self {
            what,
            return_token_strs,
        })
    }
}

/// Ids of a request of `/detokenize`.
pub(crate) fn detokenize(body: &[u8], model: &ModelInfo) -> Result<Vec<u32>, ApiError> {
    let mut params = Params::parse(body)?;
    check_model(&mut params, model)?;
    let tokens = params.array("tokens")?;
    let Some(tokens) = tokens else {
        return Err(ApiError::param(
            "tokens",
            "expected an array of token ids, found none",
        ));
    };
    params.finish()?;
    ids("tokens", tokens as Vec<Value>, model)
}
