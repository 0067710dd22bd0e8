//! Jinja as transformers sets it up for chat templates.

use jiff::Zoned;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, Rest, ValueKind},
};
use minijinja_contrib::{
    globals::{cycler, joiner},
    pycompat,
};

use super::python::{self, JsonStyle};

/// Steps that a template may take. It comes with the checkpoint, and one that does not end must not
/// hang the program. A template takes a few hundred for a message.
const FUEL: u64 = 100_000_000;

/// What `strftime_now` reads.
pub(super) type Clock = fn() -> Zoned;

/// An environment without a template.
pub(super) fn environment(clock: Clock) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("only white space differs from the usual syntax"),
    );
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(write_as_python);
    environment.set_unknown_method_callback(python_method);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| python::to_str(value));
    environment.add_test("iterable", is_iterable);
    environment.add_function("cycler", cycler);
    environment.add_function("joiner", joiner);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: String| {
        strftime(&clock(), &format)
    });
    environment
}

/// What marks an error that the template itself raises.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub String);

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "the template raised an error");
    Err(error.with_source(Raised(message)))
}

fn strftime(now: &Zoned, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now).map_err(|problem| {
        Error::new(ErrorKind::InvalidOperation, "the date cannot be formatted").with_source(problem)
    })
}

/// Prints `True`, `None` and lists as Python does.
fn write_as_python(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::to_str(value)),
    };
    Ok(written?)
}

/// `tojson` of transformers: `json.dumps` without its escapes of HTML.
fn to_json(value: &Value, options: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let option = |index: usize, name: &str| -> Result<Value, Error> {
        let named = named.get::<Option<Value>>(name)?;
        Ok(named
            .or_else(|| options.get(index).cloned())
            .unwrap_or(Value::from(())))
    };
    let ensure_ascii = option(0, "ensure_ascii")?.is_true();
    let indent = option(1, "indent")?;
    let separators = option(2, "separators")?;
    let sort_keys = option(3, "sort_keys")?.is_true();
    named.assert_all_used()?;
    let style = JsonStyle {
        ensure_ascii,
        indent: match (indent.as_str(), indent.is_none()) {
            (_, true) => None,
            (Some(text), _) => Some(text.to_owned()),
            (None, _) => Some(" ".repeat(i64::try_from(indent)?.clamp(0, 80) as usize)),
        },
        separators: match separators.is_none() {
            true => None,
            false => Some((
                separators.get_item_by_index(0)?.to_string(),
                separators.get_item_by_index(1)?.to_string(),
            )),
        },
        sort_keys,
    };
    python::to_json(value, &style).map_err(|python::NotJson(kind)| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: expected a value that JSON has a form for, found {kind}"),
        )
    })
}

/// What Python iterates over; `none` is not among it.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Methods of Python's strings, lists and dictionaries.
fn python_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) if value.kind() == ValueKind::String => match (method, args) {
            ("removeprefix", [prefix]) => {
                let prefix = argument(prefix)?;
                Ok(text.strip_prefix(prefix).unwrap_or(text).into())
            }
            ("removesuffix", [suffix]) => {
                let suffix = argument(suffix)?;
                Ok(text.strip_suffix(suffix).unwrap_or(text).into())
            }
            ("partition", [separator]) => {
                let separator = argument(separator)?;
                let (before, after) = text.split_once(separator).unwrap_or((text, ""));
                let found = if before.len() == text.len() {
                    ""
                } else {
                    separator
                };
                Ok(texts([before, found, after]))
            }
            ("rpartition", [separator]) => {
                let separator = argument(separator)?;
                Ok(match text.rsplit_once(separator) {
                    Some((before, after)) => texts([before, separator, after]),
                    None => texts(["", "", text]),
                })
            }
            ("rsplit", [separator, rest @ ..]) => {
                let separator = argument(separator)?;
                let mut parts = match rest {
                    [most, ..] => {
                        let most = usize::try_from(most.clone())?;
                        text.rsplitn(most.saturating_add(1), separator)
                            .collect::<Vec<_>>()
                    }
                    [] => text.rsplit(separator).collect(),
                };
                parts.reverse();
                Ok(texts(parts))
            }
            _ => pycompat::unknown_method_callback(state, value, method, args),
        },
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn texts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

fn argument(value: &Value) -> Result<&str, Error> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .ok_or_else(|| {
            let problem = format!("expected a text that is not empty, found {value}");
            Error::new(ErrorKind::InvalidOperation, problem)
        })
}
