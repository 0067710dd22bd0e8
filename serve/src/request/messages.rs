use serde_json::{Map, Value, json};

use super::params::{Params, expected};
use crate::error::ApiError;

/// Messages as a chat template takes them: contents are texts, arguments of calls are objects.
pub(crate) fn messages(list: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    if list.is_empty() {
        return Err(ApiError::param(
            "messages",
            "expected a message, found none",
        ));
    }
    let messages = list.into_iter().enumerate().map(|(i, value)| {
        let path = format!("messages[{i}]");
        message(Params::of(&path, value)?)
    });
    messages.collect()
}

fn message(mut params: Params) -> Result<Value, ApiError> {
    let path = params.path("role");
    let role = params.text("role")?;
    let Some(role) = role else {
        return Err(ApiError::param(path, "expected a role, found none"));
    };
    let mut message = Map::new();
    // Templates do not know the newer name.
    let shown = match &*role {
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => &role,
        other => {
            let what = "one of system, developer, user, assistant, tool";
            return Err(expected(&path, what, &json!(other)));
        }
    };
    message.insert("role".into(), shown.into());
    let content = content(&mut params)?;
    let calls = match &*role {
        "assistant" => calls(&mut params)?,
        _ => None,
    };
    if content.is_none() && calls.is_none() {
        let problem = "expected a string or an array of parts, found none";
        return Err(ApiError::param(params.path("content"), problem));
    }
    message.insert("content".into(), content.unwrap_or_default().into());
    message.extend(calls.map(|calls| ("tool_calls".to_owned(), calls.into())));
    for name in ["name", "reasoning_content"] {
        let text = params.text(name)?;
        message.extend(text.map(|text| (name.to_owned(), text.into())));
    }
    if role == "tool" {
        let id = params.text("tool_call_id")?;
        message.extend(id.map(|id| ("tool_call_id".to_owned(), id.into())));
    }
    for (name, default) in [
        ("refusal", json!("")),
        ("annotations", json!([])),
        ("tool_calls", json!([])),
    ] {
        params.only(name, &[default])?;
    }
    params.finish()?;
    Ok(message.into())
}

/// The text of a content, parts of which follow each other.
fn content(params: &mut Params) -> Result<Option<String>, ApiError> {
    let path = params.path("content");
    let parts = match params.value("content") {
        None => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text)),
        Some(Value::Array(parts)) => parts,
        Some(other) => return Err(expected(&path, "a string or an array of parts", &other)),
    };
    let texts = parts.into_iter().enumerate().map(|(i, part)| {
        let mut part = Params::of(&format!("{path}[{i}]"), part)?;
        let kind = part.text("type")?;
        if kind.as_deref() != Some("text") {
            let found = kind.map_or("none".to_owned(), |kind| format!("{:?}", kind));
            let problem = format!("this server takes parts of type \"text\" only, found {found}");
            return Err(ApiError::unsupported(part.path("type"), problem));
        }
        let missing = ApiError::param(part.path("text"), "expected a string, found none");
        let text = part.text("text")?.ok_or(missing)?;
        part.finish()?;
        Ok(text)
    });
    texts.collect::<Result<String, _>>().map(Some)
}

/// Calls that the assistant made.
fn calls(params: &mut Params) -> Result<Option<Vec<Value>>, ApiError> {
    let path = params.path("tool_calls");
    let Some(list) = params.array("tool_calls")? else {
        return Ok(None);
    };
    if list.is_empty() {
        return Ok(None);
    }
    let calls = list.into_iter().enumerate().map(|(i, call)| {
        let path = format!("{path}[{i}]");
        let mut call = Params::of(&path, call)?;
        call.only("type", &[json!("function")])?;
        call.only("index", &[json!(i)])?;
        let id = call.text("id")?;
        let Some(mut function) = call.object("function")? else {
            return Err(ApiError::param(
                call.path("function"),
                "expected an object, found none",
            ));
        };
        call.finish()?;
        let missing = ApiError::param(function.path("name"), "expected a string, found none");
        let name = function.text("name")?.ok_or(missing)?;
        let path = function.path("arguments");
        let arguments = match function.value("arguments") {
            None => Value::Object(Map::new()),
            Some(Value::String(text)) => {
                let parsed = serde_json::from_str::<Map<String, Value>>(&text);
                let parsed = parsed.map_err(|error| {
                    ApiError::param(&*path, format!("expected a JSON object as text: {error}"))
                })?;
                parsed.into()
            }
            Some(object @ Value::Object(_)) => object,
            Some(other) => return Err(expected(&path, "a JSON object as text", &other)),
        };
        function.finish()?;
        let mut shown = Map::new();
        shown.extend(id.map(|id| ("id".to_owned(), id.into())));
        shown.insert("type".into(), "function".into());
        let function = json!({ "name": name, "arguments": arguments });
        shown.insert("function".into(), function);
        Ok(Value::Object(shown))
    });
    calls.collect::<Result<Vec<_>, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: Value) -> Result<Value, ApiError> {
        messages(vec![value]).map(|mut messages| messages.remove(0))
    }

    #[test]
    fn parts_of_text_become_one_text() {
        let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
        let message = one(json!({ "role": "user", "content": parts })).unwrap();
        assert_eq!(message, json!({ "role": "user", "content": "ab" }));
    }

    #[test]
    fn developers_are_systems_and_arguments_are_objects() {
        let message = one(json!({ "role": "developer", "content": "be brief" })).unwrap();
        assert_eq!(message["role"], "system");
        let call = json!({ "id": "a", "type": "function", "function": {
            "name": "now", "arguments": "{\"zone\": \"UTC\"}",
        } });
        let message =
            one(json!({ "role": "assistant", "content": null, "tool_calls": [call] })).unwrap();
        let function = &message["tool_calls"][0]["function"];
        assert_eq!(function["arguments"], json!({ "zone": "UTC" }));
    }

    #[test]
    fn what_a_client_got_can_be_sent_back() {
        let answer = json!({
            "role": "assistant", "content": "hi", "refusal": null, "annotations": [],
            "audio": null, "function_call": null, "tool_calls": null,
        });
        assert!(one(answer).is_ok());
    }

    #[test]
    fn errors_name_the_place() {
        for (message, param) in [
            (json!("hi"), "messages[0]"),
            (json!({ "content": "hi" }), "messages[0].role"),
            (
                json!({ "role": "narrator", "content": "hi" }),
                "messages[0].role",
            ),
            (json!({ "role": "user" }), "messages[0].content"),
            (
                json!({ "role": "user", "content": 3 }),
                "messages[0].content",
            ),
            (
                json!({ "role": "user", "content": "a", "mood": 1 }),
                "messages[0].mood",
            ),
            (
                json!({ "role": "user", "content": [{ "type": "image_url" }] }),
                "messages[0].content[0].type",
            ),
            (
                json!({ "role": "assistant", "tool_calls": [{ "function": {
                    "name": "f", "arguments": "[" } }] }),
                "messages[0].tool_calls[0].function.arguments",
            ),
        ] {
            let error = one(message).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param));
        }
    }
}
