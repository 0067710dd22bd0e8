//! The parameters of requests, as they are described to clients. Requests are taken apart field by field
//! (`request/`), so nothing is made of these types; a test holds both to the same names.
#![allow(dead_code, reason = "described, not made")]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A conversation that an answer is asked for.
#[derive(ToSchema)]
pub(crate) struct ChatParameters {
    /// The model's name; the model of this server where none is given.
    model: Option<String>,
    messages: Vec<MessageParameters>,
    /// New tokens at most; as many as the context has room for where none is given.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<usize>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    max_tokens: Option<usize>,
    /// Whether tokens come with their log-probabilities.
    logprobs: Option<bool>,
    /// Log-probabilities of so many of the most probable tokens as well.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<usize>,
    /// Functions that the model may call, where its chat template knows of tools.
    tools: Option<Vec<ToolParameters>>,
    /// `auto`, `none`, `required`, or `{"type": "function", "function": {"name": ..}}`.
    tool_choice: Option<Value>,
    /// Whether an answer may call several functions; true where it is not given.
    parallel_tool_calls: Option<bool>,
    /// Variables of the chat template, such as `enable_thinking`.
    chat_template_kwargs: Option<BTreeMap<String, Value>>,
    /// Whether the template begins an answer; true where it is not given.
    add_generation_prompt: Option<bool>,
    response_format: Option<ResponseFormat>,
    structured_outputs: Option<StructuredOutputs>,
    /// The older name of `structured_outputs.json`.
    guided_json: Option<Value>,
    /// The older name of `structured_outputs.regex`.
    guided_regex: Option<String>,
    /// The older name of `structured_outputs.choice`.
    guided_choice: Option<Vec<String>>,
    /// The older name of `structured_outputs.grammar`.
    guided_grammar: Option<String>,
    /// Answers to the conversation.
    #[schema(minimum = 1)]
    n: Option<usize>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<Stop>,
    seed: Option<i64>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(maximum = 1)]
    top_p: Option<f64>,
    /// Draws from so many of the most probable tokens; 0 or -1 for all.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    /// What is added to the logits of tokens, by their ids.
    logit_bias: Option<BTreeMap<String, f64>>,
    /// Goes on behind stop tokens.
    ignore_eos: Option<bool>,
    /// Taken, and of no effect.
    user: Option<String>,
    quest: Option<QuestParameters>,
}

/// A prompt that is to be continued.
#[derive(ToSchema)]
pub(crate) struct CompletionParameters {
    /// The model's name; the model of this server where none is given.
    model: Option<String>,
    prompt: Prompts,
    /// New tokens at most; 16 where none is given.
    #[schema(minimum = 1)]
    max_tokens: Option<usize>,
    /// Tokens come with their log-probabilities and those of so many of the most probable ones.
    #[schema(minimum = 0, maximum = 20)]
    logprobs: Option<usize>,
    /// Whether special tokens in texts are those tokens, and not text; false where it is not given.
    parse_special: Option<bool>,
    response_format: Option<ResponseFormat>,
    structured_outputs: Option<StructuredOutputs>,
    /// The older name of `structured_outputs.json`.
    guided_json: Option<Value>,
    /// The older name of `structured_outputs.regex`.
    guided_regex: Option<String>,
    /// The older name of `structured_outputs.choice`.
    guided_choice: Option<Vec<String>>,
    /// The older name of `structured_outputs.grammar`.
    guided_grammar: Option<String>,
    /// Continuations of each prompt.
    #[schema(minimum = 1)]
    n: Option<usize>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    stop: Option<Stop>,
    seed: Option<i64>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    #[schema(maximum = 1)]
    top_p: Option<f64>,
    /// Draws from so many of the most probable tokens; 0 or -1 for all.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f64>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    /// What is added to the logits of tokens, by their ids.
    logit_bias: Option<BTreeMap<String, f64>>,
    /// Goes on behind stop tokens.
    ignore_eos: Option<bool>,
    /// Taken, and of no effect.
    user: Option<String>,
    quest: Option<QuestParameters>,
}

/// A message of a conversation.
#[derive(ToSchema)]
pub(crate) struct MessageParameters {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    role: String,
    /// A text, or an array of `{"type": "text", "text": ..}`.
    content: Option<Value>,
    name: Option<String>,
    /// Calls that the assistant made.
    tool_calls: Option<Vec<Value>>,
    /// The call that a tool answers.
    tool_call_id: Option<String>,
    /// What the assistant thought, for templates that show it.
    reasoning_content: Option<String>,
}

/// A function that the model may call.
#[derive(ToSchema)]
pub(crate) struct ToolParameters {
    /// `function`.
    r#type: String,
    function: FunctionParameters,
}

/// A function.
#[derive(ToSchema)]
pub(crate) struct FunctionParameters {
    name: String,
    description: Option<String>,
    /// A JSON schema of its arguments.
    parameters: Option<Value>,
    /// Whether arguments follow the schema, also where the model may call what it likes.
    strict: Option<bool>,
}

/// What an answer has to be.
#[derive(ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    r#type: String,
    json_schema: Option<NamedSchema>,
}

/// A JSON schema with a name.
#[derive(ToSchema)]
pub(crate) struct NamedSchema {
    name: String,
    description: Option<String>,
    schema: Value,
    /// Answers follow the schema in either case.
    strict: Option<bool>,
}

/// What an answer has to be, as vLLM has it: one of these.
#[derive(ToSchema)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema.
    json: Option<Value>,
    json_object: Option<bool>,
    /// A regular expression of the whole answer.
    regex: Option<String>,
    /// Texts, one of which is the answer.
    choice: Option<Vec<String>>,
    /// A grammar in Lark's syntax.
    grammar: Option<String>,
}

/// How a stream ends.
#[derive(ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk says what the request took.
    include_usage: Option<bool>,
}

/// What this server adds to OpenAI's interface.
#[derive(ToSchema)]
pub(crate) struct QuestParameters {
    /// `quest` or `dense`.
    policy: Option<String>,
    /// Tokens that a new token attends to.
    #[schema(minimum = 1)]
    token_budget: Option<usize>,
    /// Whether chunks say which pages each layer read.
    watch: Option<bool>,
}

/// Texts that end an answer.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    One(String),
    Several(Vec<String>),
}

/// Prompts.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompts {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<u32>),
    SeveralIds(Vec<Vec<u32>>),
}

/// What becomes tokens: a prompt or messages.
#[derive(ToSchema)]
pub(crate) struct TokenizeParameters {
    model: Option<String>,
    prompt: Option<String>,
    /// Whether the tokenizer adds what a text begins with; true where it is not given.
    add_special_tokens: Option<bool>,
    /// Whether special tokens in the prompt are those tokens, and not text; false where it is not given.
    parse_special: Option<bool>,
    messages: Option<Vec<MessageParameters>>,
    tools: Option<Vec<ToolParameters>>,
    add_generation_prompt: Option<bool>,
    /// Variables of the chat template.
    chat_template_kwargs: Option<BTreeMap<String, Value>>,
    /// Whether the text of each token is told too.
    return_token_strs: Option<bool>,
}

/// What becomes text.
#[derive(ToSchema)]
pub(crate) struct DetokenizeParameters {
    model: Option<String>,
    tokens: Vec<u32>,
}
