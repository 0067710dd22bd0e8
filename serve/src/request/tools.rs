use serde_json::{Value, json};

use super::params::{Params, shown};
use crate::error::ApiError;

/// Functions that a request may describe.
const FUNCTIONS: usize = 128;

/// Whether the model may call functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    Auto,
    None,
}

impl ToolChoice {
    pub(crate) fn take(params: &mut Params, has_tools: bool) -> Result<Self, ApiError> {
        params.only("parallel_tool_calls", &[json!(true)])?;
        let Some(choice) = params.value("tool_choice") else {
            return Ok(Self::Auto);
        };
        match choice.as_str() {
            Some("none") => Ok(Self::None),
            Some("auto") if has_tools => Ok(Self::Auto),
            Some("auto") => Err(ApiError::param(
                "tool_choice",
                "expected `tools` too, found none",
            )),
            _ => {
                let found = shown(&choice);
                let problem =
                    format!("this server supports \"auto\" or \"none\" only, found {found}");
                Err(ApiError::unsupported("tool_choice", problem))
            }
        }
    }
}

/// Descriptions of functions as they were given, and their names.
pub(crate) fn tools(params: &mut Params) -> Result<(Vec<Value>, Vec<String>), ApiError> {
    let tools = params.array("tools")?.unwrap_or_default();
    if tools.len() > FUNCTIONS {
        let problem = format!(
            "expected at most {FUNCTIONS} functions, found {}",
            tools.len()
        );
        return Err(ApiError::param("tools", problem));
    }
    let names = tools.iter().enumerate().map(|(i, tool)| {
        let mut tool = Params::of(&format!("tools[{i}]"), tool.clone())?;
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
        function.object("parameters")?;
        function.only("strict", &[json!(false)])?;
        function.finish()?;
        Ok(name)
    });
    let names = names.collect::<Result<Vec<_>, _>>()?;
    Ok((tools, names))
}
