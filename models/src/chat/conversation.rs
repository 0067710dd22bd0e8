use std::collections::BTreeMap;

use minijinja::Value;
use serde::{Deserialize, Serialize};

/// What one side of a conversation said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` or what else the template knows.
    pub role: String,
    /// The text, or what the template takes instead (as a list of parts).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// Further fields, as `tool_calls`. Those that are null are not shown to the template.
    #[serde(flatten)]
    pub fields: BTreeMap<String, Value>,
}

impl Message {
    /// A text by this role.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: Some(text.into().into()),
            fields: BTreeMap::new(),
        }
    }

    /// A text that says how the assistant should behave.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new("system", text)
    }

    /// A text by the user.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new("user", text)
    }

    /// A text by the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self::new("assistant", text)
    }

    /// The text, where the content is one.
    pub fn text(&self) -> Option<&str> {
        self.content.as_ref()?.as_str()
    }

    /// As the template sees it.
    pub(super) fn to_value(&self) -> Value {
        let content = self.content.iter().map(|content| ("content", content));
        let fields = self.fields.iter().map(|(name, value)| (&**name, value));
        let rest = content.chain(fields).filter(|(_, value)| !value.is_none());
        let role = ("role", Value::from(&*self.role));
        let rest = rest.map(|(name, value)| (name, value.clone()));
        Value::from_pairs([role].into_iter().chain(rest))
    }
}

/// What a chat template is rendered with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages, from the first on.
    pub messages: Vec<Message>,
    /// Descriptions of functions that the model may call, as JSON schemas.
    pub tools: Option<Vec<Value>>,
    /// Documents that the model may draw from, objects with a `title` and a `text`.
    pub documents: Option<Vec<Value>>,
    /// Whether the beginning of an answer follows the messages.
    pub add_generation_prompt: bool,
    /// Further variables of the template, as `enable_thinking`.
    pub variables: BTreeMap<String, Value>,
}

impl Conversation {
    /// Messages alone, without the beginning of an answer.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }

    /// Messages that an answer is to follow.
    pub fn to_answer(messages: Vec<Message>) -> Self {
        Self {
            add_generation_prompt: true,
            ..Self::new(messages)
        }
    }
}
