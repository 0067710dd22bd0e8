//! What the server asks of a tokenizer and a chat template.

use serde_json::{Map, Value};
use thiserror::Error;

/// Text to ids and back.
pub trait Text: Send + Sync + 'static {
    /// Ids of a prompt, with what the tokenizer puts before a text or without. Special tokens in it are text
    /// unless they are to be parsed.
    ///
    /// # Errors
    ///
    /// When the text cannot be encoded.
    fn encode(
        &self,
        text: &str,
        special_tokens: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TextError>;

    /// The text of ids; that of special tokens as they are written.
    ///
    /// # Errors
    ///
    /// When they cannot be decoded.
    fn decode(&self, ids: &[u32]) -> Result<String, TextError>;

    /// Decodes what follows `before`, id by id.
    ///
    /// # Errors
    ///
    /// When `before` cannot be decoded.
    fn decoder(&self, before: &[u32]) -> Result<Box<dyn Decoder + '_>, TextError>;

    /// The text of a token within a text; that of a special token as it is written.
    fn piece(&self, id: u32) -> String;

    /// The id of a token, as it is written in the vocabulary.
    fn id(&self, token: &str) -> Option<u32>;

    /// Ids of a prompt that messages become.
    ///
    /// # Errors
    ///
    /// When there is no chat template, or it refuses the messages.
    fn chat(&self, conversation: &Conversation) -> Result<Vec<u32>, TextError>;

    /// Whether the chat template shows tools to the model.
    fn takes_tools(&self) -> bool;
}

/// Decodes ids one by one, in whole characters.
pub trait Decoder: Send {
    /// The text that is known with the next id.
    ///
    /// # Errors
    ///
    /// When the id cannot be decoded.
    fn push(&mut self, id: u32) -> Result<String, TextError>;

    /// What is left: of characters that never became whole.
    ///
    /// # Errors
    ///
    /// When it cannot be decoded.
    fn finish(&mut self) -> Result<String, TextError>;
}

/// What a chat template is rendered with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Messages: objects with `role`, `content` and what else a role has. Arguments of tool calls are
    /// objects, contents are texts.
    pub messages: Vec<Value>,
    /// Tools, as OpenAI describes them.
    pub tools: Vec<Value>,
    /// Whether the beginning of an answer follows.
    pub add_generation_prompt: bool,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

/// Why text did not become ids, or ids text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TextError {
    /// The text, the ids or the messages are not what they should be.
    #[error("{0}")]
    Invalid(String),
    /// The model has no chat template.
    #[error("{0}")]
    NoTemplate(String),
}
