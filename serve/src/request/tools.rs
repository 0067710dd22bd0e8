use serde_json::{Value, json};

use super::params::{Params, expected, shown};
use crate::{
    error::ApiError,
    grammar::{CalledFunction, Calls},
};

/// Functions that a request may describe.
const FUNCTIONS: usize = 128;

/// What the model may or has to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    Auto,
    None,
    /// At least one function.
    Required,
    /// This function.
    Function(String),
}

impl ToolChoice {
    fn take(params: &mut Params, tools: &[Tool]) -> Result<Self, ApiError> {
        let Some(choice) = params.value("tool_choice") else {
            return Ok(Self::Auto);
        };
        let choice = match choice {
            Value::String(text) => match &*text {
                "none" => return Ok(Self::None),
                "auto" => Self::Auto,
                "required" => Self::Required,
                _ => {
                    let what = "none, auto, required or a function";
                    return Err(expected("tool_choice", what, &json!(text)));
                }
            },
            value => Self::Function(named(value)?),
        };
        if tools.is_empty() {
            let problem = "expected `tools` too, found none";
            return Err(ApiError::param("tool_choice", problem));
        }
        match &choice {
            Self::Function(name) if tools.iter().all(|tool| tool.name != *name) => {
                let found = shown(&json!(name));
                let problem = format!("expected a function of `tools`, found {found}");
                Err(ApiError::param("tool_choice.function.name", problem))
            }
            _ => Ok(choice),
        }
    }
}

/// The name of `{"type": "function", "function": {"name": ..}}`.
fn named(value: Value) -> Result<String, ApiError> {
    let mut choice = Params::of("tool_choice", value)?;
    choice.only("type", &[json!("function")])?;
    let Some(mut function) = choice.object("function")? else {
        return Err(ApiError::param(
            "tool_choice.function",
            "expected an object, found none",
        ));
    };
    choice.finish()?;
    let name = function.text("name")?;
    function.finish()?;
    let missing = || ApiError::param("tool_choice.function.name", "expected a name, found none");
    name.ok_or_else(missing)
}

/// A function that a request describes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tool {
    pub name: String,
    /// A schema of its arguments.
    pub parameters: Option<Value>,
    /// Whether its arguments have to follow the schema, also where the model may call what it likes.
    pub is_strict: bool,
}

/// Functions, and what is to become of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tools {
    /// As they were given, for the chat template.
    pub described: Vec<Value>,
    pub tools: Vec<Tool>,
    pub choice: ToolChoice,
    /// Whether an answer may call several.
    pub is_parallel: bool,
}

impl Tools {
    pub(super) fn take(params: &mut Params) -> Result<Self, ApiError> {
        let (described, tools) = describe(params)?;
        let is_parallel = params.boolean("parallel_tool_calls")?.unwrap_or(true);
        Ok(Self {
            choice: ToolChoice::take(params, &tools)?,
            described,
            tools,
            is_parallel,
        })
    }

    /// Names of the functions whose calls are looked for.
    pub(super) fn names(&self) -> Vec<String> {
        match self.choice {
            ToolChoice::None => Vec::new(),
            _ => self.tools.iter().map(|tool| tool.name.clone()).collect(),
        }
    }

    /// What calls have to be, and the parameter that says so; none where the model writes what it likes.
    pub(super) fn calls(&self) -> Option<(Calls, &'static str)> {
        if self.tools.is_empty() {
            return None;
        }
        let calls = |is_forced: bool, allows_several: bool, only: Option<&str>| {
            let tools = self.tools.iter();
            let tools = tools.filter(|tool| only.is_none_or(|name| tool.name == name));
            let functions = tools.map(|tool| CalledFunction {
                name: tool.name.clone(),
                parameters: match is_forced || tool.is_strict {
                    true => tool.parameters.clone(),
                    false => None,
                },
            });
            Calls {
                functions: functions.collect(),
                allows_text: !is_forced,
                allows_several,
            }
        };
        match &self.choice {
            ToolChoice::None => None,
            ToolChoice::Required => Some((calls(true, self.is_parallel, None), "tool_choice")),
            ToolChoice::Function(name) => Some((calls(true, false, Some(name)), "tool_choice")),
            ToolChoice::Auto if self.tools.iter().any(|tool| tool.is_strict) => {
                Some((calls(false, self.is_parallel, None), "tools"))
            }
            ToolChoice::Auto if !self.is_parallel => {
                Some((calls(false, false, None), "parallel_tool_calls"))
            }
            ToolChoice::Auto => None,
        }
    }
}

/// Descriptions of functions as they were given, and what is in them.
pub(super) fn describe(params: &mut Params) -> Result<(Vec<Value>, Vec<Tool>), ApiError> {
    let described = params.array("tools")?.unwrap_or_default();
    if described.len() > FUNCTIONS {
        let found = described.len();
        let problem = format!("expected at most {FUNCTIONS} functions, found {found}");
        return Err(ApiError::param("tools", problem));
    }
    let tools = described.iter().enumerate();
    let tools = tools.map(|(i, value)| tool(&format!("tools[{i}]"), value));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    Ok((described, tools))
}

fn tool(path: &str, value: &Value) -> Result<Tool, ApiError> {
    let mut tool = Params::of(path, value.clone())?;
    let kind = tool.text("type")?;
    if kind.as_deref() != Some("function") {
        let found = kind.map_or("none".to_owned(), |kind| format!("{kind:?}"));
        let problem = format!("this server supports \"function\" only, found {found}");
        return Err(ApiError::unsupported(tool.path("type"), problem));
    }
    let Some(mut function) = tool.object("function")? else {
        return Err(ApiError::param(
            tool.path("function"),
            "expected an object, found none",
        ));
    };
    tool.finish()?;
    let path = function.path("name");
    let name = function.text("name")?.filter(|name| !name.is_empty());
    let Some(name) = name else {
        return Err(ApiError::param(path, "expected a name, found none"));
    };
    function.text("description")?;
    let path = function.path("parameters");
    let parameters = match function.value("parameters") {
        None => None,
        Some(schema @ Value::Object(_)) => Some(schema),
        Some(other) => return Err(expected(&path, "an object", &other)),
    };
    let is_strict = function.boolean("strict")?.unwrap_or(false);
    function.finish()?;
    Ok(Tool {
        name,
        parameters,
        is_strict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut body: Value, strict: bool) -> Result<Tools, ApiError> {
        let schema = json!({ "type": "object", "properties": {} });
        let tool = |name: &str, strict: bool| {
            let function = json!({ "name": name, "parameters": schema, "strict": strict });
            json!({ "type": "function", "function": function })
        };
        let fields = body.as_object_mut().unwrap();
        let tools = json!([tool("add", strict), tool("now", false)]);
        fields.entry("tools").or_insert(tools);
        Tools::take(&mut Params::parse(body.to_string().as_bytes())?)
    }

    /// Functions with whether their arguments are bound.
    type Functions = Vec<(String, bool)>;

    /// What is bound, whether text may come, and whether several calls.
    fn calls(body: Value, strict: bool) -> Option<(Functions, bool, bool)> {
        let (calls, _) = taken(body, strict).unwrap().calls()?;
        let functions = calls.functions.into_iter();
        let functions = functions.map(|f| (f.name, f.parameters.is_some()));
        Some((functions.collect(), calls.allows_text, calls.allows_several))
    }

    #[test]
    fn what_is_forced_or_strict_is_bound() {
        let both = |add, now| vec![("add".to_owned(), add), ("now".to_owned(), now)];
        let named = json!({ "type": "function", "function": { "name": "now" } });
        for (body, strict, expected) in [
            (json!({}), false, None),
            (json!({ "tool_choice": "none" }), true, None),
            (
                json!({ "tool_choice": "required" }),
                false,
                Some((both(true, true), false, true)),
            ),
            (
                json!({ "tool_choice": "required", "parallel_tool_calls": false }),
                false,
                Some((both(true, true), false, false)),
            ),
            (
                json!({ "tool_choice": named }),
                false,
                Some((vec![("now".to_owned(), true)], false, false)),
            ),
            (json!({}), true, Some((both(true, false), true, true))),
            (
                json!({ "parallel_tool_calls": false }),
                false,
                Some((both(false, false), true, false)),
            ),
        ] {
            assert_eq!(calls(body.clone(), strict), expected, "{body}");
        }
    }

    #[test]
    fn a_choice_that_cannot_be_is_refused() {
        for (body, param) in [
            (json!({ "tool_choice": "any" }), "tool_choice"),
            (json!({ "tool_choice": 1 }), "tool_choice"),
            (json!({ "tool_choice": {} }), "tool_choice.function"),
            (
                json!({ "tool_choice": { "function": {} } }),
                "tool_choice.function.name",
            ),
            (
                json!({ "tool_choice": { "function": { "name": "sub" } } }),
                "tool_choice.function.name",
            ),
            (
                json!({ "tool_choice": { "type": "custom", "function": { "name": "add" } } }),
                "tool_choice.type",
            ),
            (
                json!({ "tool_choice": "required", "tools": [] }),
                "tool_choice",
            ),
        ] {
            let error = taken(body.clone(), false).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
        }
    }
}
