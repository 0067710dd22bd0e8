//! Asks a server with OpenAI's interface as its clients do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::arrivals::Arrivals;
use crate::BenchError;

/// Time for whatever is not an answer.
const BRIEFLY: Duration = Duration::from_secs(30);

/// One client of a server. Clones are others of the same one.
#[derive(Clone)]
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
}

/// What became of a request.
pub(super) enum Asked {
    Answered(Answer),
    /// The server has no room for it.
    Refused,
}

/// When the parts of an answer came.
pub(super) struct Answer {
    pub first: Duration,
    /// Between deliveries, each of which has a part or several.
    pub gaps: Vec<Duration>,
    /// Parts with text, which are tokens but for those that are no text yet.
    pub parts: usize,
    pub prompt_tokens: u64,
    pub new_tokens: u64,
}

impl Client {
    pub(super) fn new(url: &str, key: Option<&str>) -> Self {
        // Each request has a connection of its own: some servers close those that wait, which a request that is not
        // sent again may find out too late.
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_idle_connections(0);
        Self {
            agent: config.build().into(),
            url: url.trim_end_matches('/').to_owned(),
            key: key.map(str::to_owned),
        }
    }

    /// The address of the server.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The name of the first model that is served.
    pub(super) fn model(&self) -> Result<String, BenchError> {
        let request = self.agent.get(format!("{}/v1/models", self.url));
        let config = request.config().timeout_global(Some(BRIEFLY));
        let mut request = config.build();
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().map_err(|e| self.failed(&e))?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string();
        let text = text.map_err(|e| self.failed(&e))?;
        let models = serde_json::from_str::<Value>(&text).unwrap_or_default();
        match (status, models["data"][0]["id"].as_str()) {
            (200, Some(name)) => Ok(name.to_owned()),
            _ => Err(self.answered("/v1/models", status, &text)),
        }
    }

    /// Tokens of a text; none where the server does not count them.
    pub(super) fn count(&self, text: &str) -> Result<Option<usize>, BenchError> {
        // The latter is llama.cpp's.
        for body in [json!({ "prompt": text }), json!({ "content": text })] {
            let mut response = self.post("/tokenize", &body)?;
            let reply = response.body_mut().with_config().limit(1 << 30);
            let reply = reply.read_to_string().map_err(|e| self.failed(&e))?;
            let reply = serde_json::from_str::<Value>(&reply).unwrap_or_default();
            match reply["tokens"].as_array() {
                Some(tokens) if !tokens.is_empty() => return Ok(Some(tokens.len())),
                _ => (),
            }
        }
        Ok(None)
    }

    /// Has a prompt continued, as a stream.
    pub(super) fn ask(&self, body: &Value) -> Result<Asked, BenchError> {
        const PATH: &str = "/v1/completions";
        let begun = Instant::now();
        let mut response = self.post(PATH, body)?;
        let status = response.status().as_u16();
        if let 429 | 503 = status {
            return Ok(Asked::Refused);
        }
        if status != 200 {
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(self.answered(PATH, status, &text));
        }
        let mut parts = Vec::new();
        let mut usage = Value::Null;
        for line in Arrivals::of(response.body_mut().as_reader()) {
            let (came, line) = line.map_err(|e| self.failed(&e))?;
            let Some(chunk) = line.strip_prefix("data: ") else {
                continue;
            };
            let Ok(mut chunk) = serde_json::from_str::<Value>(chunk) else {
                // [DONE]
                continue;
            };
            if !chunk["error"].is_null() {
                return Err(self.answered(PATH, status, &chunk.to_string()));
            }
            if chunk["choices"][0]["text"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
            {
                parts.push(came);
            }
            if chunk["usage"].is_object() {
                usage = chunk["usage"].take();
            }
        }
        let Some(&first) = parts.first() else {
            let problem = "an answer without text";
            return Err(self.answered(PATH, status, problem));
        };
        let n = parts.len();
        parts.dedup();
        Ok(Asked::Answered(Answer {
            first: first - begun,
            gaps: parts.windows(2).map(|pair| pair[1] - pair[0]).collect(),
            parts: n,
            prompt_tokens: usage["prompt_tokens"].as_u64().unwrap_or(0),
            // Where they are not counted, each part is one.
            new_tokens: usage["completion_tokens"].as_u64().unwrap_or(n as u64),
        }))
    }

    fn post(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<ureq::http::Response<ureq::Body>, BenchError> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let mut request = request.header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        request.send(body.to_string()).map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &impl std::fmt::Display) -> BenchError {
        BenchError::Server(format!(
            "{}: expected an answer, found none: {error}",
            self.url
        ))
    }

    fn answered(&self, path: &str, status: u16, text: &str) -> BenchError {
        let text = text.chars().take(300).collect::<String>();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        BenchError::Server(format!(
            "{}{path}: expected an answer, found {status}: {text}",
            self.url
        ))
    }
}
