use std::time::Duration;

/// What is known of the model that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The names that requests may ask for it by; the first one is in answers.
    pub names: Vec<String>,
    /// Tokens of a prompt and its answer at most.
    pub max_context: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Tokens that end a completion.
    pub stop_ids: Vec<u32>,
    /// Tokens that end an answer in a conversation.
    pub chat_stop_ids: Vec<u32>,
    /// Tokens of a page of the KV cache.
    pub page_size: usize,
    /// Layers of the model.
    pub n_layers: usize,
}

/// What requests may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request.
    pub body_bytes: usize,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// Answers of one request: `n` for each of its prompts.
    pub answers: usize,
    /// Requests that are worked on at once, waiting ones included.
    pub requests: usize,
    /// Time for a whole answer.
    pub time: Option<Duration>,
    /// Time for a request to arrive.
    pub read_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            prompt_tokens: usize::MAX,
            answer_tokens: usize::MAX,
            answers: 16,
            requests: 512,
            time: None,
            read_time: Duration::from_secs(30),
        }
    }
}

/// How a server is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerConfig {
    /// What requests may take.
    pub limits: Limits,
    /// Keys, one of which a request has to name; none lets everybody in.
    pub api_keys: Vec<String>,
}
