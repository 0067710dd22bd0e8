//! What answers have to be, and grammars of it that an engine has compiled.

use std::{any::Any, fmt, sync::Arc};

use serde_json::Value;

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that a schema describes.
    JsonSchema(Value),
    /// A JSON object.
    JsonObject,
    /// Text that a regular expression matches.
    Regex(String),
    /// A text of a grammar in Lark's syntax.
    Lark(String),
    /// One of some texts.
    Choice(Vec<String>),
    /// Calls of functions, as the model writes them.
    Calls(Calls),
}

/// Answers that call functions.
#[derive(Clone, Debug, PartialEq)]
pub struct Calls {
    /// What may be called.
    pub functions: Vec<CalledFunction>,
    /// Whether an answer may be text, or have text before its calls.
    pub allows_text: bool,
    /// Whether there may be several calls.
    pub allows_several: bool,
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct CalledFunction {
    /// Its name.
    pub name: String,
    /// A schema that its arguments follow; none where any object will do.
    pub parameters: Option<Value>,
}

/// A grammar as an engine has it. Clones are the same grammar, for several answers.
#[derive(Clone)]
pub struct CompiledGrammar(Arc<dyn Any + Send + Sync>);

impl CompiledGrammar {
    /// What the engine made of a grammar.
    pub fn new(grammar: impl Any + Send + Sync) -> Self {
        Self(Arc::new(grammar))
    }

    /// What it was made of; none where that is of another type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl PartialEq for CompiledGrammar {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CompiledGrammar")
    }
}
