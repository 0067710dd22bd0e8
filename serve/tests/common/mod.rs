//! A model of bytes and an engine that says what it is told to, and calls of a server in this process.
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use quest_burn_serve::{
    Answer, Backend, CompiledGrammar, Conversation, Decoder, Event, Generate, Grammar, LayerRead,
    Limits, ModelInfo, Server, ServerConfig, Stats, SubmitError, Text, TextError, Token, Usage,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt;

pub(crate) const VOCAB: usize = 300;
/// Ends an answer.
pub(crate) const EOS: u32 = 256;
/// A token that decoding leaves out.
pub(crate) const TOOL_CALLS: u32 = 257;
pub(crate) const CONTEXT: usize = 1000;
pub(crate) const PAGE: usize = 8;

/// A token is a byte.
pub(crate) struct Bytes {
    pub(crate) has_template: bool,
}

impl Text for Bytes {
    fn encode(
        &self,
        text: &str,
        special_tokens: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::from_iter(special_tokens.then_some(258));
        let mut pieces = match parse_special {
            true => text.split("</s>").collect::<Vec<_>>(),
            false => vec![text],
        };
        let first = pieces.remove(0);
        ids.extend(first.bytes().map(u32::from));
        for piece in pieces {
            ids.push(EOS);
            ids.extend(piece.bytes().map(u32::from));
        }
        Ok(ids)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let bytes = ids.iter().flat_map(|&id| match u8::try_from(id) {
            Ok(byte) => vec![byte],
            Err(_) => self.piece(id).into_bytes(),
        });
        Ok(String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned())
    }

    fn decoder(&self, _before: &[u32]) -> Result<Box<dyn Decoder + '_>, TextError> {
        Ok(Box::new(ByteDecoder(Vec::new())))
    }

    fn piece(&self, id: u32) -> String {
        match id {
            EOS => "</s>".into(),
            TOOL_CALLS => "[TOOL_CALLS]".into(),
            id => {
                let bytes = u8::try_from(id).ok();
                String::from_utf8_lossy(&Vec::from_iter(bytes)).into_owned()
            }
        }
    }

    fn id(&self, token: &str) -> Option<u32> {
        (token == "[TOOL_CALLS]").then_some(TOOL_CALLS)
    }

    fn chat(&self, conversation: &Conversation) -> Result<Vec<u32>, TextError> {
        if !self.has_template {
            return Err(TextError::NoTemplate(
                "expected a chat template, found none".into(),
            ));
        }
        let mut text = String::new();
        for message in &conversation.messages {
            if message["content"] == "refuse" {
                return Err(TextError::Invalid("the template refuses this".into()));
            }
            text += &format!("<{}>{}", message["role"], message["content"]);
        }
        for (name, value) in &conversation.variables {
            text += &format!("{name}={value}");
        }
        self.encode(&text, false, false)
    }

    fn takes_tools(&self) -> bool {
        self.has_template
    }
}

struct ByteDecoder(Vec<u8>);

impl Decoder for ByteDecoder {
    fn push(&mut self, id: u32) -> Result<String, TextError> {
        self.0.extend(u8::try_from(id));
        match std::str::from_utf8(&self.0) {
            Ok(text) => {
                let text = text.to_owned();
                self.0.clear();
                Ok(text)
            }
            Err(error) if error.error_len().is_none() => Ok(String::new()),
            Err(_) => self.finish(),
        }
    }

    fn finish(&mut self) -> Result<String, TextError> {
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.0)).into_owned())
    }
}

/// An engine that answers what it is told to, token by token.
pub(crate) struct Script {
    pub(crate) answer: Mutex<Vec<u32>>,
    /// Between two tokens.
    pub(crate) pause: Duration,
    /// Requests that it was asked.
    pub(crate) requests: Mutex<Vec<Generate>>,
    pub(crate) refuses: Mutex<Option<SubmitError>>,
    pub(crate) fails: bool,
    pub(crate) grammar_fails: bool,
    pub(crate) running: Arc<AtomicUsize>,
    pub(crate) cancelled: Arc<AtomicUsize>,
    pub(crate) most: usize,
}

impl Script {
    pub(crate) fn saying(text: &str) -> Self {
        Self::of(text.bytes().map(u32::from).chain([EOS]).collect())
    }

    pub(crate) fn of(ids: Vec<u32>) -> Self {
        Self {
            answer: ids.into(),
            pause: Duration::ZERO,
            requests: Mutex::default(),
            refuses: Mutex::default(),
            fails: false,
            grammar_fails: false,
            running: Arc::default(),
            cancelled: Arc::default(),
            most: usize::MAX,
        }
    }
}

impl Backend for Script {
    fn submit(&self, request: Generate) -> Result<Box<dyn Answer>, SubmitError> {
        if let Some(error) = self.refuses.lock().unwrap().clone() {
            return Err(error);
        }
        if self.running.load(Ordering::SeqCst) >= self.most {
            let problem = format!("queue: expected fewer than {} requests", self.most);
            return Err(SubmitError::QueueFull(problem));
        }
        self.running.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = mpsc::unbounded_channel();
        let ids = self.answer.lock().unwrap().clone();
        let (pause, fails, grammar_fails) = (self.pause, self.fails, self.grammar_fails);
        self.requests.lock().unwrap().push(request.clone());
        let (running, cancelled) = (self.running.clone(), self.cancelled.clone());
        tokio::spawn(async move {
            let mut taken = 0;
            let mut is_stop = false;
            for id in ids.into_iter().take(request.max_new_tokens) {
                // Even a sleep of nothing takes a millisecond.
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                taken += 1;
                is_stop = request.stop_ids.contains(&id);
                let top =
                    (0..request.logprobs.unwrap_or(0) as u32).map(|i| (97 + i, -1.0 - i as f32));
                let reads = request.watch.then(|| LayerRead {
                    layer: 1,
                    pages: Some(vec![0, 2]),
                });
                let token = Token {
                    id,
                    logprob: request.logprobs.map(|_| -0.5),
                    top: top.collect(),
                    reads: reads.into_iter().collect(),
                };
                if sender.send(Event::Token(token)).is_err() {
                    running.fetch_sub(1, Ordering::SeqCst);
                    cancelled.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if is_stop {
                    break;
                }
            }
            let event = match fails {
                _ if grammar_fails => Event::GrammarFailed("too complex".into()),
                true => Event::Failed("the device is gone".into()),
                false => Event::Finished {
                    is_stop,
                    usage: Usage {
                        prompt_tokens: request.ids.len(),
                        cached_tokens: 3.min(request.ids.len()),
                        new_tokens: taken,
                    },
                },
            };
            let _ = sender.send(event);
            running.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(Box::new(Receiver(receiver)))
    }

    fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, String> {
        match grammar {
            Grammar::Regex(pattern) if pattern == "(" => {
                Err("regular expression: expected its end, found none".into())
            }
            grammar => Ok(CompiledGrammar::new(grammar.clone())),
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            running: self.running.load(Ordering::SeqCst),
            pages: 100,
            ..Stats::default()
        }
    }

    fn is_running(&self) -> bool {
        !self.fails
    }
}

struct Receiver(mpsc::UnboundedReceiver<Event>);

impl Answer for Receiver {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.0.poll_recv(context)
    }
}

pub(crate) fn model() -> ModelInfo {
    ModelInfo {
        names: vec!["org/bytes".into(), "alias".into()],
        max_context: CONTEXT,
        vocab_size: VOCAB,
        stop_ids: vec![EOS],
        chat_stop_ids: vec![EOS],
        page_size: PAGE,
        n_layers: 2,
    }
}

/// A server in this process, and its engine.
pub(crate) struct Fixture {
    pub(crate) router: Router,
    pub(crate) server: Server,
    pub(crate) script: Arc<Script>,
}

/// What came back.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Fixture {
    pub(crate) fn saying(text: &str) -> Self {
        Self::new(Script::saying(text))
    }

    pub(crate) fn new(script: Script) -> Self {
        Self::with(script, ServerConfig::default(), true)
    }

    pub(crate) fn limited(script: Script, limits: Limits) -> Self {
        let config = ServerConfig {
            limits,
            ..ServerConfig::default()
        };
        Self::with(script, config, true)
    }

    pub(crate) fn with(script: Script, config: ServerConfig, has_template: bool) -> Self {
        let script = Arc::new(script);
        let text = Arc::new(Bytes { has_template });
        let server = Server::new(config, model(), text, script.clone());
        Self {
            router: server.router(),
            server,
            script,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Reply {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Body>) -> Reply {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn chat(&self, parameters: Value) -> Reply {
        let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
        merge(&mut body, parameters);
        self.post("/v1/chat/completions", body.to_string()).await
    }

    pub(crate) async fn complete(&self, parameters: Value) -> Reply {
        let mut body = json!({ "prompt": "hi", "max_tokens": 100 });
        merge(&mut body, parameters);
        self.post("/v1/completions", body.to_string()).await
    }

    /// What the answer had to be that was asked for last.
    pub(crate) fn asked_grammar(&self) -> Option<Grammar> {
        let grammar = self.asked().grammar?;
        Some(grammar.get::<Grammar>().unwrap().clone())
    }

    /// The request that the engine got last.
    pub(crate) fn asked(&self) -> Generate {
        self.script.requests.lock().unwrap().last().unwrap().clone()
    }
}

fn merge(body: &mut Value, parameters: Value) {
    let Value::Object(parameters) = parameters else {
        panic!("parameters are an object");
    };
    body.as_object_mut().unwrap().extend(parameters);
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }

    /// The error, whose form is checked.
    #[track_caller]
    pub(crate) fn error(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let error = self.json()["error"].clone();
        assert!(
            error["message"].is_string() && error["type"].is_string(),
            "{error}"
        );
        assert!(
            error.get("param").is_some() && error.get("code").is_some(),
            "{error}"
        );
        error
    }

    /// The chunks of a stream, which ends as it should.
    #[track_caller]
    pub(crate) fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let mut events = self.text.split_terminator("\n\n").collect::<Vec<_>>();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{}", self.text);
        let chunks = events.iter().map(|event| {
            let data = event.strip_prefix("data: ").unwrap();
            serde_json::from_str(data).unwrap()
        });
        chunks.collect()
    }
}

/// The text of a choice of a stream.
pub(crate) fn streamed(chunks: &[Value], index: usize) -> String {
    let choices = chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let choices = choices.filter(|choice| choice["index"] == index);
    let texts = choices.filter_map(|choice| {
        choice["delta"]["content"]
            .as_str()
            .or_else(|| choice["text"].as_str())
    });
    texts.collect()
}
