use std::{error::Error as _, fmt};

use jiff::Zoned;
use minijinja::{Environment, Value};

use super::{
    ChatError, Conversation, Message, SpecialTokens,
    control::ControlTokens,
    environment::{Clock, Raised, environment},
};
use crate::tokenizer::Tokenizer;

/// The name of the one template of an environment.
const NAME: &str = "chat";

/// A chat template, ready to be rendered.
pub struct ChatTemplate {
    environment: Environment<'static>,
    origin: String,
    source: String,
    special_tokens: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles a template. `origin` says in errors where it comes from.
    ///
    /// # Errors
    ///
    /// When the source is not a template.
    pub fn new(
        origin: impl Into<String>,
        source: impl Into<String>,
        special_tokens: SpecialTokens,
    ) -> Result<Self, ChatError> {
        Self::with_clock(origin, source, special_tokens, Zoned::now)
    }

    /// A template for which it is always the time that `clock` says.
    pub(super) fn with_clock(
        origin: impl Into<String>,
        source: impl Into<String>,
        special_tokens: SpecialTokens,
        clock: Clock,
    ) -> Result<Self, ChatError> {
        let (origin, source) = (origin.into(), source.into());
        let mut environment = environment(clock);
        let added = environment.add_template_owned(NAME, without_generation_tags(&source));
        if let Err(problem) = added {
            return Err(ChatError::Syntax { origin, problem });
        }
        Ok(Self {
            environment,
            origin,
            source,
            special_tokens,
        })
    }

    /// Where the template comes from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a prompt.
    ///
    /// # Errors
    ///
    /// When there is no message, and when the template refuses them or fails.
    pub fn render(&self, conversation: &Conversation) -> Result<String, ChatError> {
        self.render_values(conversation, Value::clone)
    }

    /// The token ids of a prompt. Control tokens in messages, tools, documents and variables are
    /// encoded as plain text. Only what the template writes begins the text: the tokenizer adds
    /// nothing, so that a beginning of text is there once.
    ///
    /// # Errors
    ///
    /// When [`render`](Self::render) fails or the text cannot be encoded.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
    ) -> Result<Vec<u32>, ChatError> {
        let control = ControlTokens::new(tokenizer, &self.source);
        let text = self.render_values(conversation, |value| control.mark(value))?;
        Ok(control.encode(tokenizer, &text)?)
    }

    /// The token that the template ends an answer with, where it is a control token.
    ///
    /// Some checkpoints do not list it among their stop tokens.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const ANSWER: &str = "quest-burn:answer";
        let messages = vec![Message::user("question"), Message::assistant(ANSWER)];
        // A template that takes no such conversation has nothing to say about its end.
        let text = self.render(&Conversation::new(messages)).ok()?;
        let (_, rest) = text.rsplit_once(ANSWER)?;
        ControlTokens::new(tokenizer, &self.source).leading(rest.trim_start())
    }

    fn render_values(
        &self,
        conversation: &Conversation,
        value: impl Fn(&Value) -> Value,
    ) -> Result<String, ChatError> {
        if conversation.messages.is_empty() {
            return Err(ChatError::Empty);
        }
        let messages = conversation.messages.iter().map(Message::to_value);
        let list = |values: &Option<Vec<Value>>| match values {
            Some(values) => value(&Value::from(values.clone())),
            None => Value::from(()),
        };
        let special = self.special_tokens.iter();
        let special = special.map(|(name, text)| (name, Value::from(text)));
        let variables = conversation.variables.iter();
        let variables = variables.map(|(name, variable)| (&**name, value(variable)));
        let given = [
            (
                "messages",
                messages.map(|message| value(&message)).collect(),
            ),
            ("tools", list(&conversation.tools)),
            ("documents", list(&conversation.documents)),
            (
                "add_generation_prompt",
                conversation.add_generation_prompt.into(),
            ),
        ];
        let context = Value::from_pairs(special.chain(variables).chain(given));
        let template = self.environment.get_template(NAME);
        let rendered = template.and_then(|template| template.render(context));
        rendered.map_err(|problem| self.failed(problem))
    }

    fn failed(&self, problem: minijinja::Error) -> ChatError {
        let origin = self.origin.clone();
        let mut cause = problem.source();
        while let Some(error) = cause {
            if let Some(Raised(message)) = error.downcast_ref() {
                return ChatError::Refused {
                    origin,
                    message: message.clone(),
                };
            }
            cause = error.source();
        }
        ChatError::Render { origin, problem }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("origin", &self.origin)
            .field("source", &self.source)
            .field("special_tokens", &self.special_tokens)
            .finish_non_exhaustive()
    }
}

/// `{% generation %}` of transformers says which text is the assistant's, for training. Here it is a
/// scope like any other.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let inner = &tag[2..];
        let sign = inner.len() - inner.trim_start_matches(['-', '+']).len();
        let spaces = inner[sign..].len() - inner[sign..].trim_start().len();
        let (head, word) = inner.split_at(sign + spaces);
        let replaced = [("endgeneration", "endwith"), ("generation", "with")];
        let replaced = replaced.iter().find_map(|(name, scope)| {
            let after = word.strip_prefix(name)?;
            let is_tag = after
                .trim_start()
                .trim_start_matches(['-', '+'])
                .starts_with("%}");
            is_tag.then_some((scope, after))
        });
        out.push_str("{%");
        rest = inner;
        if let Some((scope, after)) = replaced {
            out.push_str(head);
            out.push_str(scope);
            rest = after;
        }
    }
    out + rest
}
