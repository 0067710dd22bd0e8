//! What the server sends, in OpenAI's form.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answer::{TokenInfo, calls::Call},
    backend,
    request::random,
};

/// An answer of `/v1/chat/completions`.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    #[serde(flatten)]
    pub head: Head,
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
}

/// What answers and their chunks begin with.
#[derive(Clone, Serialize, ToSchema)]
pub(crate) struct Head {
    pub id: String,
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub system_fingerprint: &'static str,
}

/// One of the answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatChoice {
    pub index: usize,
    pub message: ChatMessage,
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: &'static str,
}

/// What the assistant said.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatMessage {
    pub role: &'static str,
    pub content: Option<String>,
    pub refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a function.
#[derive(Serialize, ToSchema)]
pub(crate) struct ToolCall {
    /// Which one it is; in streams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    pub id: String,
    pub r#type: &'static str,
    pub function: FunctionCall,
}

/// The function that is called.
#[derive(Serialize, ToSchema)]
pub(crate) struct FunctionCall {
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

impl ToolCall {
    pub(crate) fn new(index: Option<usize>, call: Call) -> Self {
        Self {
            index,
            id: call_id(),
            r#type: "function",
            function: FunctionCall {
                name: call.name,
                arguments: call.arguments,
            },
        }
    }
}

/// Templates of Mistral take ids of nine letters and digits only.
fn call_id() -> String {
    const SIGNS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut number = random();
    let signs = (0..9).map(|_| {
        let sign = SIGNS[(number % 36) as usize];
        number /= 36;
        char::from(sign)
    });
    signs.collect()
}

/// Log-probabilities of tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatLogprobs {
    pub content: Vec<TokenLogprob>,
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// The log-probability of a token, and of the most probable ones at its place.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenLogprob {
    #[serde(flatten)]
    pub token: TopLogprob,
    pub top_logprobs: Vec<TopLogprob>,
}

/// The log-probability of a token.
#[derive(Serialize, ToSchema)]
pub(crate) struct TopLogprob {
    pub token: String,
    pub logprob: f32,
    /// The bytes of its text; null where it is a part of a character.
    pub bytes: Option<Vec<u8>>,
}

impl ChatLogprobs {
    pub(crate) fn new(tokens: Vec<TokenInfo>) -> Self {
        let tokens = tokens.into_iter().map(|token| TokenLogprob {
            token: TopLogprob::new(token.text, token.logprob),
            top_logprobs: {
                let top = token.top.into_iter();
                top.map(|(text, logprob)| TopLogprob::new(text, logprob))
                    .collect()
            },
        });
        Self {
            content: tokens.collect(),
            refusal: None,
        }
    }
}

impl TopLogprob {
    fn new(token: String, logprob: f32) -> Self {
        let is_whole = !token.contains(char::REPLACEMENT_CHARACTER);
        Self {
            bytes: is_whole.then(|| token.clone().into_bytes()),
            token,
            logprob,
        }
    }
}

/// A part of a streamed answer of `/v1/chat/completions`.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChatChunk {
    #[serde(flatten)]
    pub head: Head,
    pub choices: Vec<ChunkChoice>,
    /// In the last chunk, where it was asked for; null in those before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quest: Option<Watched>,
}

/// A part of one of the answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChunkChoice {
    pub index: usize,
    pub delta: ChunkDelta,
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: Option<&'static str>,
}

/// What is new.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct ChunkDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// An answer of `/v1/completions`, or a part of a streamed one.
#[derive(Serialize, ToSchema)]
pub(crate) struct Completion {
    #[serde(flatten)]
    pub head: Head,
    pub choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quest: Option<Watched>,
}

/// One of the continuations.
#[derive(Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`.
    pub finish_reason: Option<&'static str>,
}

/// Log-probabilities of the tokens of a continuation.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f32>,
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where the text of each token begins, in characters.
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// `offset` counts the characters of tokens before these.
    pub(crate) fn new(tokens: Vec<TokenInfo>, offset: &mut usize) -> Self {
        let mut logprobs = Self::default();
        for token in tokens {
            logprobs.text_offset.push(*offset);
            *offset += token.text.chars().count();
            logprobs.tokens.push(token.text);
            logprobs.token_logprobs.push(token.logprob);
            logprobs.top_logprobs.push(token.top.into_iter().collect());
        }
        logprobs
    }
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptDetails,
}

/// More of a prompt.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    /// Tokens whose keys and values were in the cache.
    pub cached_tokens: usize,
}

impl Usage {
    /// Adds an answer. The prompt of several answers counts once.
    pub(crate) fn add(&mut self, answer: backend::Usage, is_first_of_prompt: bool) {
        self.completion_tokens += answer.new_tokens;
        if is_first_of_prompt {
            self.prompt_tokens += answer.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += answer.cached_tokens;
        }
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// What was read for a token, where a request asks for `quest.watch`.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct Watched {
    /// In the first chunk: the pages of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
    /// What each layer read for the token of this chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<Vec<Read>>,
}

/// The pages that a prompt lies on.
#[derive(Serialize, ToSchema)]
pub(crate) struct Context {
    pub page_size: usize,
    pub layers: usize,
    pub prompt_tokens: usize,
    /// The text of each page.
    pub pages: Vec<String>,
}

/// What a layer read.
#[derive(Serialize, ToSchema)]
pub(crate) struct Read {
    pub layer: usize,
    /// Pages by their places in the sequence; null for all.
    pub pages: Option<Vec<u32>>,
}

/// The models that are served.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelList {
    pub object: &'static str,
    pub data: Vec<Model>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub(crate) struct Model {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: &'static str,
    /// Tokens of a prompt and its answer at most.
    pub max_model_len: usize,
}

/// Ids of a text.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    pub tokens: Vec<u32>,
    pub count: usize,
    pub max_model_len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_strs: Option<Vec<String>>,
}

/// The text of ids.
#[derive(Serialize, ToSchema)]
pub(crate) struct Detokenized {
    pub prompt: String,
}

/// Whether the server takes requests.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`, `shutting down` or `failed`.
    pub status: &'static str,
    pub running: usize,
    pub waiting: usize,
}
