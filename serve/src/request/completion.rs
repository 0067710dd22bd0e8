use serde_json::{Value, json};

use super::{
    format::{self, Asked},
    generation::Generation,
    params::{Params, expected, whole},
};
use crate::{
    config::{Limits, ModelInfo},
    error::ApiError,
};

/// Log-probabilities beside each token at most.
const LOGPROBS: i64 = 20;

/// A request of `/v1/completions`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CompletionRequest {
    pub prompts: Vec<Prompt>,
    pub logprobs: Option<usize>,
    /// What the answers have to be, and the parameter that says so.
    pub grammar: Option<Asked>,
    /// Whether special tokens in texts are those tokens.
    pub parse_special: bool,
    pub generation: Generation,
}

/// A prompt of a completion.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
}

impl CompletionRequest {
    pub(crate) fn parse(body: &[u8], model: &ModelInfo, limits: &Limits) -> Result<Self, ApiError> {
        let mut params = Params::parse(body)?;
        let generation = Generation::take(&mut params, &["max_tokens"], model, limits)?;
        let Some(prompt) = params.value("prompt") else {
            return Err(ApiError::param(
                "prompt",
                "expected text or token ids, found none",
            ));
        };
        let prompts = prompts(prompt, model)?;
        let answers = prompts.len().saturating_mul(generation.n);
        if answers > limits.answers {
            let most = limits.answers;
            let problem = format!("expected at most {most} answers of a request, found {answers}");
            return Err(ApiError::param("prompt", problem));
        }
        let logprobs = params.integer("logprobs", 0..=LOGPROBS)?;
        params.only("echo", &[json!(false)])?;
        params.only("suffix", &[json!("")])?;
        let grammar = format::take(&mut params)?;
        let parse_special = params.boolean("parse_special")?.unwrap_or(false);
        params.finish()?;
        Ok(Self {
            prompts,
            logprobs: logprobs.map(|logprobs| logprobs as usize),
            grammar,
            parse_special,
            generation,
        })
    }
}

/// A text, ids, or several of either.
fn prompts(value: Value, model: &ModelInfo) -> Result<Vec<Prompt>, ApiError> {
    const WHAT: &str = "a string, an array of token ids, or an array of those";
    let values = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(values) => values,
        other => return Err(expected("prompt", WHAT, &other)),
    };
    match values.first() {
        None => Err(ApiError::param(
            "prompt",
            "expected a prompt, found an empty array",
        )),
        Some(Value::Number(_)) => Ok(vec![Prompt::Ids(ids("prompt", values, model)?)]),
        Some(Value::String(_) | Value::Array(_)) => {
            let prompts = values
                .into_iter()
                .enumerate()
                .map(|(i, value)| match value {
                    Value::String(text) => Ok(Prompt::Text(text)),
                    Value::Array(values) => {
                        Ok(Prompt::Ids(ids(&format!("prompt[{i}]"), values, model)?))
                    }
                    other => Err(expected(&format!("prompt[{i}]"), WHAT, &other)),
                });
            prompts.collect()
        }
        Some(other) => Err(expected("prompt[0]", WHAT, other)),
    }
}

/// Token ids of the model.
pub(crate) fn ids(path: &str, values: Vec<Value>, model: &ModelInfo) -> Result<Vec<u32>, ApiError> {
    let ids = values.iter().enumerate().map(|(i, value)| {
        let id = whole(value).and_then(|id| u32::try_from(id).ok());
        id.filter(|id| (*id as usize) < model.vocab_size)
            .ok_or_else(|| {
                let what = format!("a token id below {}", model.vocab_size);
                expected(&format!("{path}[{i}]"), &what, value)
            })
    });
    ids.collect()
}
