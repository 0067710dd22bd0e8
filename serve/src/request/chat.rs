use serde_json::{Map, Value, json};

use super::{
    format::{self, Asked},
    generation::Generation,
    messages::messages,
    params::{Params, expected},
    tools::{ToolChoice, Tools},
};
use crate::{
    config::{Limits, ModelInfo},
    error::ApiError,
    grammar::Grammar,
    text::Conversation,
};

/// Log-probabilities beside each token at most.
const TOP_LOGPROBS: i64 = 20;

/// A request of `/v1/chat/completions`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChatRequest {
    pub conversation: Conversation,
    /// Names of the functions that may be called; none where calls are not looked for.
    pub functions: Vec<String>,
    pub logprobs: Option<usize>,
    /// What the answer has to be, and the parameter that says so.
    pub grammar: Option<Asked>,
    pub generation: Generation,
}

impl ChatRequest {
    pub(crate) fn parse(body: &[u8], model: &ModelInfo, limits: &Limits) -> Result<Self, ApiError> {
        let mut params = Params::parse(body)?;
        let names = ["max_completion_tokens", "max_tokens"];
        let generation = Generation::take(&mut params, &names, model, limits)?;
        let Some(list) = params.array("messages")? else {
            return Err(ApiError::param(
                "messages",
                "expected an array of messages, found none",
            ));
        };
        let messages = messages(list)?;
        let tools = Tools::take(&mut params)?;
        let grammar = grammar(&mut params, &tools)?;
        let logprobs = logprobs(&mut params)?;
        let conversation = Conversation {
            messages,
            add_generation_prompt: params.boolean("add_generation_prompt")?.unwrap_or(true),
            variables: variables(&mut params)?,
            tools: tools.described.clone(),
        };
        refuse_others(&mut params)?;
        params.finish()?;
        Ok(Self {
            conversation,
            functions: tools.names(),
            grammar,
            logprobs,
            generation,
        })
    }
}

fn logprobs(params: &mut Params) -> Result<Option<usize>, ApiError> {
    let is_asked = params.boolean("logprobs")?.unwrap_or(false);
    match params.integer("top_logprobs", 0..=TOP_LOGPROBS)? {
        Some(1..) if !is_asked => {
            let problem = "expected `logprobs` to be true too";
            Err(ApiError::param("top_logprobs", problem))
        }
        top => Ok(is_asked.then_some(top.unwrap_or(0) as usize)),
    }
}

/// What the answer has to be. Calls and another format exclude each other, as no grammar says which one the
/// model is to choose.
fn grammar(params: &mut Params, tools: &Tools) -> Result<Option<Asked>, ApiError> {
    let format = format::take(params)?;
    if let Some((_, param)) = &format
        && !tools.tools.is_empty()
        && tools.choice != ToolChoice::None
    {
        let problem = "expected no `tools` beside it, or a `tool_choice` of \"none\"";
        return Err(ApiError::unsupported(*param, problem));
    }
    let calls = tools.calls();
    Ok(format.or(calls.map(|(calls, param)| (Grammar::Calls(calls), param))))
}

/// Variables of the chat template.
pub(super) fn variables(params: &mut Params) -> Result<Map<String, Value>, ApiError> {
    match params.value("chat_template_kwargs") {
        None => Ok(Map::new()),
        Some(Value::Object(variables)) => Ok(variables),
        Some(other) => Err(expected("chat_template_kwargs", "an object", &other)),
    }
}

fn refuse_others(params: &mut Params) -> Result<(), ApiError> {
    params.only("modalities", &[json!(["text"])])?;
    params.only("verbosity", &[json!("medium")])?;
    params.only("functions", &[json!([])])?;
    for name in [
        "audio",
        "function_call",
        "prediction",
        "reasoning_effort",
        "web_search_options",
        "moderation",
    ] {
        params.only(name, &[])?;
    }
    Ok(())
}
