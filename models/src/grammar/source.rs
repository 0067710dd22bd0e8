use serde_json::Value;

use super::GrammarError;

const JSON_SCHEMA: &str = "JSON schema";

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSource {
    /// JSON that a schema describes. Keywords that are not followed are refused by their names, but for those that ask
    /// nothing of an answer; `oneOf` is taken as `anyOf`.
    JsonSchema(Value),
    /// A JSON object, whatever is in it.
    JsonObject,
    /// Text that a regular expression matches from its beginning to its end. The syntax is that of the crate
    /// `regex`, without look-around.
    Regex(String),
    /// A text of a grammar in Lark's syntax, as `llguidance` has it; it begins with the rule `start`.
    Lark(String),
}

impl GrammarSource {
    /// JSON that a schema describes.
    pub fn json_schema(schema: Value) -> Self {
        Self::JsonSchema(schema)
    }

    /// The same, of a schema as text.
    ///
    /// # Errors
    ///
    /// When the text is no JSON.
    pub fn json_schema_text(schema: &str) -> Result<Self, GrammarError> {
        let schema = serde_json::from_str(schema);
        let schema = schema.map_err(|error| GrammarError::Invalid {
            kind: JSON_SCHEMA,
            problem: format!("expected JSON: {error}"),
        });
        schema.map(Self::JsonSchema)
    }

    /// Text that a regular expression matches.
    pub fn regex(pattern: impl Into<String>) -> Self {
        Self::Regex(pattern.into())
    }

    /// Text of a grammar in Lark's syntax.
    pub fn lark(grammar: impl Into<String>) -> Self {
        Self::Lark(grammar.into())
    }

    /// One of several texts.
    pub fn choice<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        let texts = texts.into_iter();
        let mut texts = texts.collect::<Vec<_>>();
        let has_empty = texts.iter().any(|text| text.as_ref().is_empty());
        texts.retain(|text| !text.as_ref().is_empty());
        let texts = texts.iter().map(|text| quoted(text.as_ref()));
        let texts = texts.collect::<Vec<_>>();
        // One terminal is a tree of its texts, where alternatives of a rule would be tried one by one.
        let start = match (texts.is_empty(), has_empty) {
            (true, _) => return Self::Lark("start: \"\"\n".to_owned()),
            (false, true) => "TEXT?",
            (false, false) => "TEXT",
        };
        Self::Lark(format!("start: {start}\nTEXT: {}\n", texts.join(" | ")))
    }

    /// What it is called in errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) => JSON_SCHEMA,
            Self::JsonObject => "JSON object",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "grammar",
        }
    }
}

/// A text as Lark writes it.
pub(super) fn quoted(text: &str) -> String {
    // What JSON does not escape but Lark does.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
