//! Chat templates: from messages to the token ids of a prompt.
//!
//! A [`ChatTemplate`] is the Jinja template that a chat model comes with, rendered as Hugging Face
//! transformers renders it. [`ChatTemplates`] finds it beside the weights.
//!
//! ```
//! use quest_burn_models::chat::{ChatTemplate, Conversation, Message, SpecialTokens};
//!
//! let source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}";
//! let template = ChatTemplate::new("example", source, SpecialTokens::default())?;
//! let conversation = Conversation::new(vec![Message::user("How deep is the sea?")]);
//! assert_eq!(template.render(&conversation)?, "<|user|>How deep is the sea?</s>");
//! # Ok::<(), quest_burn_models::chat::ChatError>(())
//! ```
//!
//! # Special tokens in messages are text
//!
//! A message that contains `<|im_end|>` must not end its turn. Control tokens in messages, tools,
//! documents and variables are put between two marks before the template is rendered. The rendered
//! text is encoded in pieces: what is between marks as plain text, the rest with its special
//! tokens. Control tokens are the special tokens of the tokenizer, and those of its other added
//! tokens that the template's source contains. Transformers does the same where it is asked to
//! (`sanitize_control_tokens`).

mod control;
mod conversation;
mod environment;
mod error;
mod python;
mod source;
mod special;
mod template;

pub use control::encode_text;
pub use conversation::{Conversation, Message};
pub use error::ChatError;
pub use minijinja::Value;
pub use source::ChatTemplates;
pub use special::SpecialTokens;
pub use template::ChatTemplate;

#[cfg(test)]
mod tests;
