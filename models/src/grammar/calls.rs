use core::fmt::Write;

use serde_json::{Value, json};

use super::{GrammarSource, compiler::with_options, source::quoted};
use crate::tokenizer::Tokenizer;

/// How a family of models writes calls of functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallForm {
    /// Qwen and Hermes: `<tool_call>{"name": .., "arguments": {..}}</tool_call>`.
    Tagged,
    /// Mistral: `[TOOL_CALLS][{"name": .., "arguments": {..}}]`.
    Listed,
    /// Newer models of Mistral: `[TOOL_CALLS]name[ARGS]{..}`.
    Named,
    /// Llama 3: `{"name": .., "parameters": {..}}`.
    Object,
    /// Llama 3.1: `<function=name>{..}</function>`.
    Function,
}

impl CallForm {
    /// The form that a chat template shows; none where it shows none that is known.
    pub fn of_template(template: &str) -> Option<Self> {
        let has = |text: &str| template.contains(text);
        if has("<tool_call>") {
            Some(Self::Tagged)
        } else if has("[TOOL_CALLS]") && has("[ARGS]") {
            Some(Self::Named)
        } else if has("[TOOL_CALLS]") {
            Some(Self::Listed)
        } else if has("<function=") {
            Some(Self::Function)
        } else if has("\"parameters\":") || has("<|python_tag|>") {
            Some(Self::Object)
        } else {
            None
        }
    }
}

/// A function that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionSchema {
    /// Its name.
    pub name: String,
    /// A schema of the object of its arguments; none where any object will do.
    pub parameters: Option<Value>,
}

/// Answers that call functions.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCalls {
    /// How calls are written.
    pub form: CallForm,
    /// What may be called.
    pub functions: Vec<FunctionSchema>,
    /// Whether an answer may be text, or have text before its calls.
    pub allows_text: bool,
    /// Whether there may be several calls.
    pub allows_several: bool,
}

impl ToolCalls {
    /// The grammar of such answers, in the tokens of a tokenizer.
    pub fn source(&self, tokenizer: &Tokenizer) -> GrammarSource {
        let tokens = Tokens(tokenizer);
        let calls = match self.form {
            CallForm::Tagged => {
                let [open, close] = ["<tool_call>", "</tool_call>"].map(|tag| tokens.written(tag));
                self.repeated(&format!("{open} \"\\n\" call \"\\n\" {close}"), "\"\\n\"")
            }
            CallForm::Listed => {
                let list = self.repeated("call", "\", \"");
                let marker = tokens.written("[TOOL_CALLS]");
                format!("{marker} \"[\" {list} \"]\"")
            }
            CallForm::Named => {
                let marker = tokens.written("[TOOL_CALLS]");
                self.repeated(&format!("{marker} call"), "")
            }
            CallForm::Object => self.repeated("call", "\"; \""),
            CallForm::Function => self.repeated("call", ""),
        };
        let mut grammar = match self.allows_text {
            false => format!("start: {calls}\n"),
            true => {
                let text = self.text(&tokens);
                format!("start: TEXT? | TEXT? calls\ncalls: {calls}\nTEXT: {text}\n")
            }
        };
        let names = (0..self.functions.len()).map(|i| format!("call{i}"));
        let names = names.collect::<Vec<_>>().join(" | ");
        let _ = writeln!(grammar, "call: {names}");
        for (i, function) in self.functions.iter().enumerate() {
            let (before, after) = self.around(function, &tokens);
            let _ = writeln!(grammar, "call{i}: {before} args{i} {after}");
            let schema = with_options(function.schema());
            let _ = writeln!(grammar, "args{i}: %json {schema}");
        }
        GrammarSource::Lark(grammar)
    }

    fn repeated(&self, call: &str, between: &str) -> String {
        match self.allows_several {
            true => format!("{call} ({between} {call})*"),
            false => call.to_owned(),
        }
    }

    /// What is before and after the arguments of a call.
    fn around(&self, function: &FunctionSchema, tokens: &Tokens<'_>) -> (String, String) {
        let name = &function.name;
        let object = |arguments: &str| {
            let name = Value::from(&**name);
            let before = format!("{{\"name\": {name}, \"{arguments}\": ");
            (quoted(&before), quoted("}"))
        };
        match self.form {
            CallForm::Tagged | CallForm::Listed => object("arguments"),
            CallForm::Object => object("parameters"),
            CallForm::Named => {
                let marker = tokens.written("[ARGS]");
                (format!("{} {marker}", quoted(name)), String::new())
            }
            CallForm::Function => (quoted(&format!("<function={name}>")), quoted("</function>")),
        }
    }

    /// Text that is no call: it has no marker of one, or does not begin as one.
    fn text(&self, tokens: &Tokens<'_>) -> String {
        let without = |marker: &str| match tokens.is_special(marker) {
            // No text is such a token.
            true => "/(?s:.+)/".to_owned(),
            false => {
                let marker = marker.replace('[', "\\[").replace(']', "\\]");
                format!("/(?s:.+)/ & ~/(?s:.*){marker}(?s:.*)/")
            }
        };
        match self.form {
            CallForm::Tagged => without("<tool_call>"),
            CallForm::Listed | CallForm::Named => without("[TOOL_CALLS]"),
            CallForm::Function => without("<function="),
            CallForm::Object => "/[^{\\s](?s:.*)/".to_owned(),
        }
    }
}

impl FunctionSchema {
    fn schema(&self) -> Value {
        match &self.parameters {
            Some(Value::Object(schema)) => {
                let mut schema = schema.clone();
                // Arguments are an object, also where their schema does not say so.
                schema
                    .entry("type")
                    .or_insert_with(|| Value::from("object"));
                Value::Object(schema)
            }
            _ => json!({ "type": "object" }),
        }
    }
}

/// How markers are written with a tokenizer.
struct Tokens<'a>(&'a Tokenizer);

impl Tokens<'_> {
    fn special(&self, marker: &str) -> Option<u32> {
        let tokens = self.0.added_tokens().into_iter();
        let mut tokens = tokens.filter(|token| token.is_special && token.text == marker);
        tokens.next().map(|token| token.id)
    }

    fn is_special(&self, marker: &str) -> bool {
        self.special(marker).is_some()
    }

    /// A marker in a grammar: its token where it is a special one, else its text.
    fn written(&self, marker: &str) -> String {
        match self.special(marker) {
            Some(id) => format!("<[{id}]>"),
            None => quoted(marker),
        }
    }
}
