//! Calls of functions in what a model writes.
//!
//! | models | a call |
//! |---|---|
//! | Qwen, Hermes | `<tool_call>{"name": .., "arguments": {..}}</tool_call>` |
//! | Mistral | `[TOOL_CALLS][{"name": .., "arguments": {..}}]`, newer ones `[TOOL_CALLS]name[ARGS]{..}` |
//! | Llama 3 | `{"name": .., "parameters": {..}}`, also behind `<\|python_tag\|>`, several parted by `;` |
//! | Llama 3.1 | `<function=name>{..}</function>` |

use serde_json::{Deserializer, Map, Value};

use super::stop::held_back;

/// Beginnings of calls.
const MARKERS: [&str; 4] = [
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<function=",
];

/// Tokens that calls are written with and that decoding may leave out.
pub(crate) const TOKENS: [&str; 6] = [
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|python_tag|>",
];

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub name: String,
    /// A JSON object as text.
    pub arguments: String,
}

/// Parts calls from text. Text flows on as long as it cannot be a call.
#[derive(Debug)]
pub(crate) struct CallFinder {
    functions: Vec<String>,
    held: String,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Beginning,
    Text,
    Call,
}

impl CallFinder {
    pub(crate) fn new(functions: Vec<String>) -> Self {
        Self {
            functions,
            held: String::new(),
            place: Place::Beginning,
        }
    }

    /// The text that can be given out now.
    pub(crate) fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        if self.place == Place::Call {
            return String::new();
        }
        if let Some(at) = MARKERS
            .iter()
            .filter_map(|marker| self.held.find(marker))
            .min()
        {
            self.place = Place::Call;
            let call = self.held.split_off(at);
            return std::mem::replace(&mut self.held, call);
        }
        if self.place == Place::Beginning {
            if may_be_json_call(&self.held) {
                return String::new();
            }
            self.place = Place::Text;
        }
        let held = held_back(&self.held, MARKERS.into_iter());
        let rest = self.held.split_off(self.held.len() - held);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, now that nothing follows: text, or calls.
    pub(crate) fn finish(&mut self) -> (String, Vec<Call>) {
        let held = std::mem::take(&mut self.held);
        let calls = match self.place {
            Place::Text => None,
            Place::Beginning | Place::Call => parse(held.trim(), &self.functions),
        };
        match calls {
            Some(calls) => (String::new(), calls),
            None => (held, Vec::new()),
        }
    }
}

/// Whether a text is the beginning of an object with a name, or of an array of those.
fn may_be_json_call(text: &str) -> bool {
    let text = text.trim_start();
    let object = text.strip_prefix('[').map_or(text, str::trim_start);
    let Some(inner) = object.strip_prefix('{') else {
        return object.is_empty();
    };
    let inner = inner.trim_start();
    let keys = [
        "\"name\"",
        "\"type\"",
        "\"function\"",
        "\"parameters\"",
        "\"arguments\"",
    ];
    keys.iter()
        .any(|key| key.starts_with(inner) || inner.starts_with(key))
}

fn parse(text: &str, functions: &[String]) -> Option<Vec<Call>> {
    let calls = if text.starts_with("<tool_call>") {
        tagged(text)?
    } else if text.starts_with("[TOOL_CALLS]") {
        mistral(text)?
    } else if text.starts_with("<function=") {
        named(text)?
    } else {
        let text = text.strip_prefix("<|python_tag|>").unwrap_or(text);
        values(text)?
            .into_iter()
            .map(call)
            .collect::<Option<Vec<_>>>()?
    };
    let is_known = |call: &Call| functions.contains(&call.name);
    (!calls.is_empty() && calls.iter().all(is_known)).then_some(calls)
}

fn tagged(mut text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    while !text.is_empty() {
        text = text.strip_prefix("<tool_call>")?;
        // A model that ends with its call leaves the end out.
        let (inner, rest) = text.split_once("</tool_call>").unwrap_or((text, ""));
        for value in values(inner.trim())? {
            calls.push(call(value)?);
        }
        text = rest.trim_start();
    }
    Some(calls)
}

fn mistral(text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    for part in text.split("[TOOL_CALLS]").skip(1) {
        let part = part.trim();
        if part.starts_with('[') {
            let list = serde_json::from_str::<Vec<Value>>(part).ok()?;
            calls.extend(list.into_iter().map(call).collect::<Option<Vec<_>>>()?);
            continue;
        }
        let (name, arguments) = part.split_at(part.find('{')?);
        let name = name.trim_end_matches("[ARGS]");
        let name = name.split("[CALL_ID]").next().unwrap_or(name);
        calls.push(Call {
            name: name.trim().to_owned(),
            arguments: object(arguments)?,
        });
    }
    Some(calls)
}

fn named(mut text: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    while let Some(rest) = text.strip_prefix("<function=") {
        let (name, rest) = rest.split_once('>')?;
        let (arguments, rest) = rest.split_once("</function>").unwrap_or((rest, ""));
        calls.push(Call {
            name: name.to_owned(),
            arguments: object(arguments)?,
        });
        text = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
    }
    text.is_empty().then_some(calls)
}

/// JSON values behind each other, arrays as what is in them.
fn values(mut text: &str) -> Option<Vec<Value>> {
    let mut values = Vec::new();
    loop {
        text = text.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        if text.is_empty() {
            return Some(values);
        }
        let mut stream = Deserializer::from_str(text).into_iter::<Value>();
        match stream.next()?.ok()? {
            Value::Array(list) => values.extend(list),
            value => values.push(value),
        }
        text = &text[stream.byte_offset()..];
    }
}

fn call(value: Value) -> Option<Call> {
    let Value::Object(mut fields) = value else {
        return None;
    };
    if let Some(Value::Object(function)) = fields.remove("function") {
        fields = function;
    }
    let arguments = fields
        .remove("arguments")
        .or_else(|| fields.remove("parameters"));
    let arguments = match arguments {
        None => "{}".to_owned(),
        Some(Value::String(text)) => object(&text)?,
        Some(arguments @ Value::Object(_)) => arguments.to_string(),
        Some(_) => return None,
    };
    let Some(Value::String(name)) = fields.remove("name") else {
        return None;
    };
    Some(Call { name, arguments })
}

fn object(text: &str) -> Option<String> {
    let object = serde_json::from_str::<Map<String, Value>>(text.trim()).ok()?;
    Some(Value::from(object).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (String, Vec<Call>) {
        let mut whole = None;
        // However tokens part a text, the same comes of it.
        for size in [1, 3, 7, 1000] {
            let mut finder = CallFinder::new(vec!["add".into(), "now".into()]);
            let chars = text.chars().collect::<Vec<_>>();
            let pieces = chars
                .chunks(size)
                .map(|piece| piece.iter().collect::<String>());
            let mut shown = pieces.map(|piece| finder.push(&piece)).collect::<String>();
            let (rest, calls) = finder.finish();
            shown += &rest;
            let result = (shown, calls);
            assert_eq!(*whole.get_or_insert_with(|| result.clone()), result);
        }
        whole.unwrap()
    }

    fn add() -> Call {
        Call {
            name: "add".into(),
            arguments: r#"{"a":1,"b":2}"#.into(),
        }
    }

    fn now() -> Call {
        Call {
            name: "now".into(),
            arguments: "{}".into(),
        }
    }

    #[test]
    fn calls_of_every_family_are_found() {
        let object = r#"{"name": "add", "arguments": {"a": 1, "b": 2}}"#;
        let llama = object.replace("arguments", "parameters");
        for text in [
            format!("<tool_call>\n{object}\n</tool_call>"),
            format!("<tool_call>{object}"),
            format!("[TOOL_CALLS] [{object}]"),
            r#"[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}"#.into(),
            r#"[TOOL_CALLS]add[CALL_ID]abc123def[ARGS]{"a": 1, "b": 2}"#.into(),
            llama.clone(),
            format!("<|python_tag|>{llama}"),
            r#"<function=add>{"a": 1, "b": 2}</function>"#.into(),
        ] {
            assert_eq!(found(&text), (String::new(), vec![add()]), "{text}");
        }
    }

    #[test]
    fn several_calls_are_found() {
        let two = [add(), now()].to_vec();
        for text in [
            "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":2}}</tool_call>\n\
             <tool_call>{\"name\":\"now\"}</tool_call>",
            "{\"name\":\"add\",\"parameters\":{\"a\":1,\"b\":2}}; {\"name\":\"now\"}",
            "[TOOL_CALLS][{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":2}},{\"name\":\"now\"}]",
        ] {
            assert_eq!(found(text), (String::new(), two.clone()), "{text}");
        }
    }

    #[test]
    fn text_before_a_call_stays_text() {
        let text = "Let me see.\n<tool_call>{\"name\": \"now\"}</tool_call>";
        assert_eq!(found(text), ("Let me see.\n".into(), vec![now()]));
    }

    #[test]
    fn what_is_no_call_is_text() {
        for text in [
            "3 < 4 and [1]",
            "{\"answer\": 42}",
            "{\"name\": \"unknown\"}",
            "{\"name\": \"add\", \"parameters\": [",
            "<tool_call>not JSON</tool_call>",
            "[1, 2]",
            "",
        ] {
            assert_eq!(found(text), (text.into(), Vec::new()), "{text}");
        }
    }
}
