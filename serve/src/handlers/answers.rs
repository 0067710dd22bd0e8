use std::sync::Arc;

use axum::{
    extract::{self, Request},
    response::Response,
};
use tokio::time::Instant;

use crate::{
    answer::ChoiceOptions,
    body,
    error::{ApiError, ErrorBody},
    form::Form,
    generate::{self, Job},
    grammar::CompiledGrammar,
    request::{Asked, ChatRequest, CompletionRequest, Prompt},
    response::{ChatCompletion, Completion},
    schema::{ChatParameters, CompletionParameters},
    state::State,
    text::{Text, TextError},
};

/// New tokens of a completion that does not say, as OpenAI has it.
const COMPLETION_TOKENS: usize = 16;

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "OpenAI",
    request_body = ChatParameters,
    responses(
        (status = 200, body = ChatCompletion, description = "The answer, or chunks of it as server-sent events"),
        (status = "4XX", body = ErrorBody, description = "What is wrong with the request"),
        (status = 429, body = ErrorBody, description = "Too many requests wait; see `Retry-After`"),
        (status = 503, body = ErrorBody, description = "The server is shutting down, or the time is up"),
    )
)]
pub(crate) async fn chat(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let permit = generate::admit(&state)?;
    let limits = &state.config.limits;
    let body = body::read(request, limits).await?;
    let request = ChatRequest::parse(&body, &state.model, limits)?;
    if !request.conversation.tools.is_empty() && !state.text.takes_tools() {
        let problem = "the chat template of this model shows the model no tools";
        return Err(ApiError::unsupported("tools", problem));
    }
    let conversation = request.conversation;
    let prompt = state
        .with_text(move |text| text.chat(&conversation))
        .await?;
    let prompt = prompt.map_err(|error| text_error("messages", error))?;
    let grammar_param = request.grammar.as_ref().map(|(_, param)| *param);
    let grammar = compile(&state, request.grammar).await?;
    let mut options = ChoiceOptions {
        stop_ids: state.model.chat_stop_ids.clone(),
        stops: request.generation.stop.clone(),
        logprobs: request.logprobs.is_some(),
        grammar_param,
        functions: request.functions,
        ..ChoiceOptions::default()
    };
    if !options.functions.is_empty() {
        options.call_tokens = state.call_tokens.clone();
    }
    if request.generation.ignore_eos {
        options.stop_ids.clear();
    }
    let job = Job {
        form: Form::chat(&state.model),
        generation: request.generation,
        prompts: vec![prompt],
        prompt_param: "messages",
        logprobs: request.logprobs,
        grammar,
        options,
        default_tokens: usize::MAX,
        arrived,
    };
    generate::answer(job, state, permit).await
}

/// Continues prompts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "OpenAI",
    request_body = CompletionParameters,
    responses(
        (status = 200, body = Completion, description = "The continuation, or chunks of it as server-sent events"),
        (status = "4XX", body = ErrorBody, description = "What is wrong with the request"),
        (status = 429, body = ErrorBody, description = "Too many requests wait; see `Retry-After`"),
        (status = 503, body = ErrorBody, description = "The server is shutting down, or the time is up"),
    )
)]
pub(crate) async fn completions(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let permit = generate::admit(&state)?;
    let limits = &state.config.limits;
    let body = body::read(request, limits).await?;
    let request = CompletionRequest::parse(&body, &state.model, limits)?;
    let (prompts, parse_special) = (request.prompts, request.parse_special);
    let encode = move |text: &dyn Text| {
        let prompts = prompts.into_iter().map(|prompt| match prompt {
            Prompt::Text(prompt) => text.encode(&prompt, true, parse_special),
            Prompt::Ids(ids) => Ok(ids),
        });
        prompts.collect::<Result<Vec<_>, _>>()
    };
    let prompts = state.with_text(encode).await?;
    let prompts = prompts.map_err(|error| text_error("prompt", error))?;
    let grammar_param = request.grammar.as_ref().map(|(_, param)| *param);
    let grammar = compile(&state, request.grammar).await?;
    let mut options = ChoiceOptions {
        stop_ids: state.model.stop_ids.clone(),
        stops: request.generation.stop.clone(),
        logprobs: request.logprobs.is_some(),
        grammar_param,
        ..ChoiceOptions::default()
    };
    if request.generation.ignore_eos {
        options.stop_ids.clear();
    }
    let job = Job {
        form: Form::completion(&state.model),
        generation: request.generation,
        prompts,
        prompt_param: "prompt",
        logprobs: request.logprobs,
        grammar,
        options,
        default_tokens: COMPLETION_TOKENS,
        arrived,
    };
    generate::answer(job, state, permit).await
}

/// The grammar that answers have to follow.
async fn compile(state: &State, asked: Option<Asked>) -> Result<Option<CompiledGrammar>, ApiError> {
    let Some((grammar, param)) = asked else {
        return Ok(None);
    };
    let compiled = state.compile(grammar).await?;
    compiled
        .map(Some)
        .map_err(|problem| ApiError::param(param, problem))
}

/// The error of a text or of messages that are not what they should be.
pub(super) fn text_error(param: &str, error: TextError) -> ApiError {
    match error {
        TextError::Invalid(problem) => ApiError::param(param, problem),
        TextError::NoTemplate(problem) => ApiError {
            code: Some("no_chat_template"),
            ..ApiError::param(param, problem)
        },
    }
}
