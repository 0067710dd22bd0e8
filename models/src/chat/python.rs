//! Values written as Python writes them.

use std::fmt::Write;

use minijinja::{
    Value,
    value::{ValueIter, ValueKind},
};

/// How `json.dumps` writes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JsonStyle {
    /// Whether characters beyond ASCII are escaped.
    pub ensure_ascii: bool,
    /// What a level is indented by. Without it everything is one line.
    pub indent: Option<String>,
    /// Between items, and between a key and its value.
    pub separators: Option<(String, String)>,
    /// Whether keys are sorted.
    pub sort_keys: bool,
}

/// A value that JSON has no form for.
#[derive(Debug)]
pub(super) struct NotJson(pub ValueKind);

/// The value as `json.dumps` writes it.
pub(super) fn to_json(value: &Value, style: &JsonStyle) -> Result<String, NotJson> {
    let (item, key) = match &style.separators {
        Some((item, key)) => (&**item, &**key),
        None if style.indent.is_some() => (",", ": "),
        None => (", ", ": "),
    };
    let mut writer = JsonWriter {
        out: String::new(),
        style,
        item,
        key,
    };
    writer.value(value, 0)?;
    Ok(writer.out)
}

struct JsonWriter<'a> {
    out: String,
    style: &'a JsonStyle,
    item: &'a str,
    key: &'a str,
}

impl JsonWriter<'_> {
    fn value(&mut self, value: &Value, level: usize) -> Result<(), NotJson> {
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value, "NaN", "Infinity")),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = items(value)?;
                self.group('[', ']', level, items, |writer, item| {
                    writer.value(&item, level + 1)
                })?;
            }
            ValueKind::Map => {
                let mut entries = items(value)?
                    .map(|key| {
                        let item = value.get_item(&key).unwrap_or_default();
                        (key_text(&key), item)
                    })
                    .collect::<Vec<_>>();
                if self.style.sort_keys {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.group(
                    '{',
                    '}',
                    level,
                    entries.into_iter(),
                    |writer, (key, item)| {
                        writer.string(&key);
                        writer.out.push_str(writer.key);
                        writer.value(&item, level + 1)
                    },
                )?;
            }
            kind => return Err(NotJson(kind)),
        }
        Ok(())
    }

    /// Items between brackets, on lines of their own where there is an indent.
    fn group<T>(
        &mut self,
        open: char,
        close: char,
        level: usize,
        items: impl Iterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), NotJson>,
    ) -> Result<(), NotJson> {
        self.out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                self.out.push_str(self.item);
            }
            is_empty = false;
            self.line(level + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.line(level);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, level: usize) {
        if let Some(indent) = &self.style.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(level));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").expect("strings take everything");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn items(value: &Value) -> Result<ValueIter, NotJson> {
    value.try_iter().map_err(|_| NotJson(value.kind()))
}

/// A key of a JSON object.
fn key_text(key: &Value) -> String {
    match key.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Bool => key.is_true().to_string(),
        ValueKind::Number => number(key, "NaN", "Infinity"),
        _ => key.to_string(),
    }
}

/// The value as `str` gives it.
pub(super) fn to_str(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => to_repr(value),
    }
}

/// The value as `repr` gives it.
fn to_repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Undefined => "Undefined".into(),
        ValueKind::Bool if value.is_true() => "True".into(),
        ValueKind::Bool => "False".into(),
        ValueKind::Number => number(value, "nan", "inf"),
        ValueKind::String => string_repr(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            let items = items.map(|item| to_repr(&item)).collect::<Vec<_>>();
            match (value.is_tuple(), &items[..]) {
                (true, [one]) => format!("({one},)"),
                (true, _) => format!("({})", items.join(", ")),
                (false, _) => format!("[{}]", items.join(", ")),
            }
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let entries = keys.map(|key| {
                let item = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", to_repr(&key), to_repr(&item))
            });
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn string_repr(text: &str) -> String {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                write!(out, "\\x{:02x}", u32::from(c)).expect("strings take everything");
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A number as Python's `repr` gives it.
fn number(value: &Value, nan: &str, infinity: &str) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if number.is_nan() {
        return nan.to_owned();
    }
    if number.is_infinite() {
        let sign = if number < 0.0 { "-" } else { "" };
        return format!("{sign}{infinity}");
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent = exponent.parse::<i32>().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        format!("{number:?}")
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    fn style() -> JsonStyle {
        JsonStyle {
            ensure_ascii: false,
            indent: None,
            separators: None,
            sort_keys: false,
        }
    }

    // Expected texts are what CPython 3.11 prints.
    #[test]
    fn json_is_that_of_json_dumps() {
        let value = parsed(
            r#"{"b": [1, -2.5, 1e16, 1e-5, 0.0001, 100.0, true, null, {}, []],
                "a": "é<&>'\"\\\n\u0001\u007f😀"}"#,
        );
        assert_eq!(
            to_json(&value, &style()).unwrap(),
            "{\"b\": [1, -2.5, 1e+16, 1e-05, 0.0001, 100.0, true, null, {}, []], \
             \"a\": \"é<&>'\\\"\\\\\\n\\u0001\u{7f}😀\"}"
        );
        let escaped = JsonStyle {
            ensure_ascii: true,
            separators: Some((",".into(), ":".into())),
            sort_keys: true,
            ..style()
        };
        assert_eq!(
            to_json(&value, &escaped).unwrap(),
            "{\"a\":\"\\u00e9<&>'\\\"\\\\\\n\\u0001\\u007f\\ud83d\\ude00\",\
             \"b\":[1,-2.5,1e+16,1e-05,0.0001,100.0,true,null,{},[]]}"
        );
    }

    #[test]
    fn json_is_indented_as_json_dumps_indents() {
        let indented = JsonStyle {
            indent: Some("  ".into()),
            ..style()
        };
        let value = parsed(r#"{"a": [1, {"b": {}}], "c": []}"#);
        assert_eq!(
            to_json(&value, &indented).unwrap(),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": {}\n    }\n  ],\n  \"c\": []\n}"
        );
        let flat = JsonStyle {
            indent: Some(String::new()),
            ..style()
        };
        assert_eq!(to_json(&parsed("[1, 2]"), &flat).unwrap(), "[\n1,\n2\n]");
    }

    #[test]
    fn what_json_has_no_form_for_is_refused() {
        assert!(to_json(&Value::UNDEFINED, &style()).is_err());
        assert!(to_json(&Value::from(vec![Value::UNDEFINED]), &style()).is_err());
    }

    #[test]
    fn texts_are_those_of_str() {
        for (json, text) in [
            ("null", "None"),
            ("true", "True"),
            ("1.0", "1.0"),
            ("1e22", "1e+22"),
            ("-7", "-7"),
            ("\"it's\"", "it's"),
            (
                "[\"it's\", \"a\\\"b\", \"c'\\\"\\n\"]",
                "[\"it's\", 'a\"b', 'c\\'\"\\n']",
            ),
            ("{\"a\": {\"b\": [false]}}", "{'a': {'b': [False]}}"),
        ] {
            assert_eq!(to_str(&parsed(json)), text, "{json}");
        }
    }
}
