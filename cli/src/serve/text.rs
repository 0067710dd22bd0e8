//! Tokenizer and chat template of a checkpoint, as the server asks for them.

use std::collections::HashMap;

use quest_burn_models::{
    chat::{Conversation, Message, Value, encode_text},
    tokenizer::{DecodeStream, Tokenizer, TokenizerError},
};
use quest_burn_serve::{self as serve, Decoder, Text, TextError};
use serde::Deserialize;

use crate::chat::prompt::Prompter;

/// The text side of a model.
pub(super) struct ModelText {
    tokenizer: Tokenizer,
    /// None where the checkpoint has no chat template.
    prompter: Option<Prompter>,
    /// Texts of special tokens.
    special: HashMap<u32, String>,
    /// A token that others are decoded behind, and its text: a tokenizer may leave the space before the
    /// first word out.
    anchor: Option<(u32, String)>,
}

impl ModelText {
    pub(super) fn new(
        tokenizer: Tokenizer,
        prompter: Option<Prompter>,
    ) -> Result<Self, TokenizerError> {
        let special = tokenizer
            .added_tokens()
            .into_iter()
            .filter(|token| token.is_special);
        let special = special.map(|token| (token.id, token.text)).collect();
        let anchor = match tokenizer.encode_continuation("a")?.last() {
            Some(&id) => Some((id, tokenizer.decode(&[id])?)),
            None => None,
        };
        Ok(Self {
            special,
            anchor,
            tokenizer,
            prompter,
        })
    }
}

impl Text for ModelText {
    fn encode(
        &self,
        text: &str,
        special_tokens: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TextError> {
        let ids = match (parse_special, special_tokens) {
            (false, _) => encode_text(&self.tokenizer, text, special_tokens),
            (true, true) => self.tokenizer.encode(text),
            (true, false) => self.tokenizer.encode_continuation(text),
        };
        ids.map_err(invalid)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        self.tokenizer.decode_with_special(ids).map_err(invalid)
    }

    fn decoder(&self, before: &[u32]) -> Result<Box<dyn Decoder + '_>, TextError> {
        let stream = match before {
            [] => self.tokenizer.decode_stream(),
            before => self
                .tokenizer
                .decode_stream_after(before)
                .map_err(invalid)?,
        };
        Ok(Box::new(ModelDecoder(Some(stream))))
    }

    fn piece(&self, id: u32) -> String {
        if let Some(text) = self.special.get(&id) {
            return text.clone();
        }
        let behind = self.anchor.as_ref().and_then(|(anchor, before)| {
            let both = self.tokenizer.decode(&[*anchor, id]).ok()?;
            both.strip_prefix(&**before).map(str::to_owned)
        });
        let alone = || self.tokenizer.decode(&[id]).ok();
        behind.or_else(alone).unwrap_or_default()
    }

    fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.id(token)
    }

    fn chat(&self, conversation: &serve::Conversation) -> Result<Vec<u32>, TextError> {
        let Some(prompter) = &self.prompter else {
            return Err(TextError::NoTemplate(
                "expected a model with a chat template, found one without: ask `/v1/completions`, or \
                 start the server with `--chat-template FILE`"
                    .to_owned(),
            ));
        };
        let messages = conversation.messages.iter().map(Message::deserialize);
        let messages = messages.collect::<Result<Vec<_>, _>>();
        let mut messages = messages.map_err(|error| TextError::Invalid(error.to_string()))?;
        let is_told = messages
            .first()
            .is_some_and(|message| message.role == "system");
        if let Some(system) = prompter.system().filter(|_| !is_told) {
            messages.insert(0, system);
        }
        let invalid = |error: serde_json::Error| TextError::Invalid(error.to_string());
        let tools = conversation.tools.iter().map(Value::deserialize);
        let tools = tools.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        let variables = conversation.variables.iter();
        let variables =
            variables.map(|(name, value)| Ok((name.clone(), Value::deserialize(value)?)));
        let variables = variables.collect::<Result<_, _>>().map_err(invalid)?;
        let conversation = Conversation {
            messages,
            tools: (!tools.is_empty()).then_some(tools),
            add_generation_prompt: conversation.add_generation_prompt,
            variables,
            ..Conversation::default()
        };
        let ids = prompter.conversation_ids(conversation);
        ids.map_err(|error| TextError::Invalid(format!("{error:#}")))
    }

    fn takes_tools(&self) -> bool {
        self.prompter.as_ref().is_some_and(Prompter::shows_tools)
    }
}

struct ModelDecoder<'a>(Option<DecodeStream<'a>>);

impl Decoder for ModelDecoder<'_> {
    fn push(&mut self, id: u32) -> Result<String, TextError> {
        match &mut self.0 {
            Some(stream) => stream.push(id).map_err(invalid),
            None => Ok(String::new()),
        }
    }

    fn finish(&mut self) -> Result<String, TextError> {
        match self.0.take() {
            Some(stream) => stream.finish().map_err(invalid),
            None => Ok(String::new()),
        }
    }
}

fn invalid(error: TokenizerError) -> TextError {
    TextError::Invalid(format!("{:#}", anyhow::Error::new(error)))
}
