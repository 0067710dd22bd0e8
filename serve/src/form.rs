//! The two forms of answers: of conversations and of completions.

use axum::{http::StatusCode, response::Response};
use serde::Serialize;

use crate::{
    answer::Delta,
    backend::LayerRead,
    config::ModelInfo,
    error::json,
    request::random,
    response::{
        ChatChoice, ChatChunk, ChatCompletion, ChatLogprobs, ChatMessage, ChunkChoice, ChunkDelta,
        Completion, CompletionChoice, CompletionLogprobs, Context, Head, Read, ToolCall, Usage,
        Watched,
    },
    state::seconds,
};

/// Names this version of the server in answers.
const FINGERPRINT: &str = concat!("quest-", env!("CARGO_PKG_VERSION"));

/// In which form an answer is sent.
#[derive(Clone)]
pub(crate) struct Form {
    kind: Kind,
    id: String,
    created: u64,
    model: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chat,
    Completion,
}

impl Form {
    pub(crate) fn chat(model: &ModelInfo) -> Self {
        Self::new(Kind::Chat, "chatcmpl", model)
    }

    pub(crate) fn completion(model: &ModelInfo) -> Self {
        Self::new(Kind::Completion, "cmpl", model)
    }

    fn new(kind: Kind, prefix: &str, model: &ModelInfo) -> Self {
        Self {
            kind,
            id: format!("{prefix}-{:016x}{:016x}", random(), random()),
            created: seconds(),
            model: model.names[0].clone(),
        }
    }

    fn head(&self, is_chunk: bool) -> Head {
        Head {
            id: self.id.clone(),
            object: match (self.kind, is_chunk) {
                (Kind::Chat, false) => "chat.completion",
                (Kind::Chat, true) => "chat.completion.chunk",
                (Kind::Completion, _) => "text_completion",
            },
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: FINGERPRINT,
        }
    }

    /// Whole answers, of which all is known.
    pub(crate) fn whole(&self, deltas: Vec<Delta>, with_logprobs: bool, usage: Usage) -> Response {
        let head = self.head(false);
        let deltas = deltas.into_iter().enumerate();
        match self.kind {
            Kind::Chat => {
                let choices = deltas.map(|(index, delta)| ChatChoice {
                    index,
                    finish_reason: delta.end.map_or("stop", |end| end.reason),
                    logprobs: with_logprobs.then(|| ChatLogprobs::new(delta.logprobs)),
                    message: message(delta.text, delta.calls),
                });
                json(
                    StatusCode::OK,
                    &ChatCompletion {
                        head,
                        choices: choices.collect(),
                        usage,
                    },
                )
            }
            Kind::Completion => {
                let choices = deltas.map(|(index, delta)| CompletionChoice {
                    index,
                    text: delta.text,
                    logprobs: with_logprobs
                        .then(|| CompletionLogprobs::new(delta.logprobs, &mut 0)),
                    finish_reason: delta.end.map(|end| end.reason),
                });
                json(
                    StatusCode::OK,
                    &Completion {
                        head,
                        choices: choices.collect(),
                        usage: Some(Some(usage)),
                        quest: None,
                    },
                )
            }
        }
    }

    /// The chunks of a stream.
    pub(crate) fn stream(&self, with_logprobs: bool, with_usage: bool, watch: bool) -> Chunks {
        Chunks {
            form: self.clone(),
            with_logprobs,
            with_usage,
            watch,
            offsets: Vec::new(),
        }
    }
}

fn message(text: String, calls: Vec<crate::answer::calls::Call>) -> ChatMessage {
    let calls = calls.into_iter().map(|call| ToolCall::new(None, call));
    let tool_calls = calls.collect::<Vec<_>>();
    let is_call_alone = !tool_calls.is_empty() && text.trim().is_empty();
    ChatMessage {
        role: "assistant",
        content: (!is_call_alone).then_some(text),
        refusal: None,
        tool_calls,
    }
}

/// Writes what is new of answers as chunks.
pub(crate) struct Chunks {
    form: Form,
    with_logprobs: bool,
    with_usage: bool,
    watch: bool,
    /// Characters of the tokens of each completion so far.
    offsets: Vec<usize>,
}

/// What a chunk adds to an answer.
#[derive(Default)]
struct Part {
    delta: ChunkDelta,
    logprobs: Vec<crate::answer::TokenInfo>,
    has_token: bool,
    finish_reason: Option<&'static str>,
    quest: Option<Watched>,
}

impl Chunks {
    /// What an answer begins with. The first of a watched stream says what is in the context.
    pub(crate) fn first(
        &mut self,
        index: usize,
        model: &ModelInfo,
        prompt_tokens: usize,
        pages: Option<&[String]>,
    ) -> Option<String> {
        let pages = pages.filter(|_| index == 0);
        let is_chat = self.form.kind == Kind::Chat;
        let quest = pages.map(|pages| Watched {
            context: Some(Context {
                page_size: model.page_size,
                layers: model.n_layers,
                prompt_tokens,
                pages: pages.to_vec(),
            }),
            reads: None,
        });
        (is_chat || quest.is_some()).then(|| {
            let delta = ChunkDelta {
                role: Some("assistant"),
                content: Some(String::new()),
                tool_calls: Vec::new(),
            };
            let part = Part {
                delta,
                quest,
                ..Part::default()
            };
            self.chunk(index, part)
        })
    }

    /// What becomes of an event.
    pub(crate) fn chunks(&mut self, index: usize, delta: Delta) -> Vec<String> {
        let mut chunks = Vec::new();
        let reads = (self.watch && !delta.reads.is_empty()).then(|| Watched {
            context: None,
            reads: Some(delta.reads.into_iter().map(read).collect()),
        });
        if !delta.text.is_empty() || !delta.logprobs.is_empty() || reads.is_some() {
            let part = Part {
                delta: ChunkDelta {
                    content: Some(delta.text),
                    ..ChunkDelta::default()
                },
                logprobs: delta.logprobs,
                has_token: true,
                quest: reads,
                ..Part::default()
            };
            chunks.push(self.chunk(index, part));
        }
        if !delta.calls.is_empty() {
            let calls = delta.calls.into_iter().enumerate();
            let calls = calls.map(|(i, call)| ToolCall::new(Some(i), call));
            let part = Part {
                delta: ChunkDelta {
                    tool_calls: calls.collect(),
                    ..ChunkDelta::default()
                },
                ..Part::default()
            };
            chunks.push(self.chunk(index, part));
        }
        if let Some(end) = delta.end {
            let part = Part {
                finish_reason: Some(end.reason),
                ..Part::default()
            };
            chunks.push(self.chunk(index, part));
        }
        chunks
    }

    /// What the stream took, where that was asked for.
    pub(crate) fn last(&self, usage: Usage) -> Option<String> {
        let head = self.form.head(true);
        let usage = Some(Some(usage));
        self.with_usage.then(|| match self.form.kind {
            Kind::Chat => text(&ChatChunk {
                head,
                choices: Vec::new(),
                usage,
                quest: None,
            }),
            Kind::Completion => text(&Completion {
                head,
                choices: Vec::new(),
                usage,
                quest: None,
            }),
        })
    }

    fn chunk(&mut self, index: usize, part: Part) -> String {
        let head = self.form.head(true);
        // OpenAI writes null before the last chunk.
        let usage = self.with_usage.then_some(None);
        let with_logprobs = self.with_logprobs && part.has_token;
        match self.form.kind {
            Kind::Chat => text(&ChatChunk {
                head,
                choices: vec![ChunkChoice {
                    index,
                    delta: part.delta,
                    logprobs: with_logprobs.then(|| ChatLogprobs::new(part.logprobs)),
                    finish_reason: part.finish_reason,
                }],
                usage,
                quest: part.quest,
            }),
            Kind::Completion => {
                if self.offsets.len() <= index {
                    self.offsets.resize(index + 1, 0);
                }
                let offset = &mut self.offsets[index];
                text(&Completion {
                    head,
                    choices: vec![CompletionChoice {
                        index,
                        text: part.delta.content.unwrap_or_default(),
                        logprobs: with_logprobs
                            .then(|| CompletionLogprobs::new(part.logprobs, offset)),
                        finish_reason: part.finish_reason,
                    }],
                    usage,
                    quest: part.quest,
                })
            }
        }
    }
}

fn read(read: LayerRead) -> Read {
    Read {
        layer: read.layer,
        pages: read.pages,
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("chunks have string keys only")
}
