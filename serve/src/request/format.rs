//! What an answer has to be, as OpenAI and vLLM have it.

use serde_json::{Value, json};

use super::{
    params::{Params, expected},
    unique_keys,
};
use crate::{error::ApiError, grammar::Grammar};

/// Texts of a choice at most.
const CHOICES: usize = 1024;

/// A grammar, and the parameter that asked for it.
pub(crate) type Asked = (Grammar, &'static str);

/// Takes the parameters that say what an answer has to be. Several of them are refused.
pub(super) fn take(params: &mut Params) -> Result<Option<Asked>, ApiError> {
    let format = response_format(params)?.map(|grammar| (grammar, "response_format"));
    let structured = structured_outputs(params)?.map(|grammar| (grammar, "structured_outputs"));
    let mut asked = format.into_iter().chain(structured).collect::<Vec<_>>();
    for (name, param) in [
        ("json", "guided_json"),
        ("regex", "guided_regex"),
        ("choice", "guided_choice"),
        ("grammar", "guided_grammar"),
    ] {
        if let Some(value) = params.value(param) {
            asked.push((constraint(name, param, value)?, param));
        }
    }
    match asked.len() {
        0 | 1 => Ok(asked.pop()),
        _ => {
            let (_, first) = asked[0];
            let problem = format!("expected none beside `{first}`");
            Err(ApiError::param(asked[1].1, problem))
        }
    }
}

/// OpenAI's.
fn response_format(params: &mut Params) -> Result<Option<Grammar>, ApiError> {
    let Some(mut format) = params.object("response_format")? else {
        return Ok(None);
    };
    let path = format.path("type");
    let Some(kind) = format.text("type")? else {
        return Err(ApiError::param(path, "expected a type, found none"));
    };
    let grammar = match &*kind {
        "text" => None,
        "json_object" => Some(Grammar::JsonObject),
        "json_schema" => Some(json_schema(&mut format)?),
        other => {
            let what = "text, json_object or json_schema";
            return Err(expected(&path, what, &json!(other)));
        }
    };
    format.finish()?;
    Ok(grammar)
}

fn json_schema(format: &mut Params) -> Result<Grammar, ApiError> {
    let path = format.path("json_schema");
    let Some(mut described) = format.object("json_schema")? else {
        return Err(ApiError::param(path, "expected an object, found none"));
    };
    let path = described.path("name");
    if described.text("name")?.is_none_or(|name| name.is_empty()) {
        return Err(ApiError::param(path, "expected a name, found none"));
    }
    described.text("description")?;
    // Answers follow the schema in either case.
    described.boolean("strict")?;
    let path = described.path("schema");
    let Some(value) = described.value("schema") else {
        return Err(ApiError::param(path, "expected a JSON schema, found none"));
    };
    described.finish()?;
    schema(&path, value).map(Grammar::JsonSchema)
}

/// vLLM's.
fn structured_outputs(params: &mut Params) -> Result<Option<Grammar>, ApiError> {
    let Some(mut outputs) = params.object("structured_outputs")? else {
        return Ok(None);
    };
    let mut found = Vec::new();
    for name in ["json", "regex", "choice", "grammar"] {
        let path = outputs.path(name);
        if let Some(value) = outputs.value(name) {
            found.push(constraint(name, &path, value)?);
        }
    }
    if outputs.boolean("json_object")? == Some(true) {
        found.push(Grammar::JsonObject);
    }
    outputs.finish()?;
    match found.len() {
        1 => Ok(found.pop()),
        n => Err(ApiError::param(
            "structured_outputs",
            format!("expected one of json, json_object, regex, choice, grammar, found {n}"),
        )),
    }
}

fn constraint(name: &str, path: &str, value: Value) -> Result<Grammar, ApiError> {
    Ok(match (name, value) {
        // Clients write schemas as text, too.
        ("json", Value::String(text)) => {
            let value = unique_keys::parse(text.as_bytes()).map_err(|error| {
                ApiError::param(path, format!("expected a JSON schema as text: {error}"))
            })?;
            Grammar::JsonSchema(schema(path, value)?)
        }
        ("json", value) => Grammar::JsonSchema(schema(path, value)?),
        ("regex", Value::String(text)) => Grammar::Regex(text),
        ("grammar", Value::String(text)) => Grammar::Lark(text),
        ("choice", Value::Array(values)) => Grammar::Choice(choice(path, values)?),
        ("choice", other) => return Err(expected(path, "an array of strings", &other)),
        (_, other) => return Err(expected(path, "a string", &other)),
    })
}

fn schema(path: &str, value: Value) -> Result<Value, ApiError> {
    match value {
        Value::Object(_) | Value::Bool(_) => Ok(value),
        other => Err(expected(path, "a JSON schema", &other)),
    }
}

fn choice(path: &str, values: Vec<Value>) -> Result<Vec<String>, ApiError> {
    if !(1..=CHOICES).contains(&values.len()) {
        let problem = format!("expected 1 to {CHOICES} texts, found {}", values.len());
        return Err(ApiError::param(path, problem));
    }
    let texts = values.into_iter().enumerate();
    let texts = texts.map(|(i, value)| match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        other => Err(expected(&format!("{path}[{i}]"), "a text", &other)),
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(body: Value) -> Result<Option<Asked>, ApiError> {
        let mut params = Params::parse(body.to_string().as_bytes())?;
        let asked = take(&mut params)?;
        params.finish()?;
        Ok(asked)
    }

    #[test]
    fn each_way_of_asking_is_understood() {
        let schema = json!({ "type": "object" });
        let named = json!({ "name": "a", "schema": schema, "strict": true });
        for (body, grammar) in [
            (json!({ "response_format": { "type": "text" } }), None),
            (json!({}), None),
            (
                json!({ "response_format": { "type": "json_object" } }),
                Some(Grammar::JsonObject),
            ),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": named } }),
                Some(Grammar::JsonSchema(schema.clone())),
            ),
            (
                json!({ "guided_json": schema.to_string() }),
                Some(Grammar::JsonSchema(schema.clone())),
            ),
            (
                json!({ "structured_outputs": { "json": schema } }),
                Some(Grammar::JsonSchema(schema.clone())),
            ),
            (
                json!({ "structured_outputs": { "regex": "a+" } }),
                Some(Grammar::Regex("a+".into())),
            ),
            (
                json!({ "guided_choice": ["a", "b"] }),
                Some(Grammar::Choice(vec!["a".into(), "b".into()])),
            ),
            (
                json!({ "guided_grammar": "start: \"a\"" }),
                Some(Grammar::Lark("start: \"a\"".into())),
            ),
        ] {
            let asked = taken(body.clone()).unwrap();
            assert_eq!(asked.map(|(grammar, _)| grammar), grammar, "{body}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        let schema = |described: Value| json!({ "response_format": { "type": "json_schema", "json_schema": described } });
        for (body, param) in [
            (json!({ "response_format": "json" }), "response_format"),
            (json!({ "response_format": {} }), "response_format.type"),
            (
                json!({ "response_format": { "type": "xml" } }),
                "response_format.type",
            ),
            (
                json!({ "response_format": { "type": "json_schema" } }),
                "response_format.json_schema",
            ),
            (schema(json!({})), "response_format.json_schema.name"),
            (
                schema(json!({ "name": "a" })),
                "response_format.json_schema.schema",
            ),
            (
                schema(json!({ "name": "a", "schema": 1 })),
                "response_format.json_schema.schema",
            ),
            (
                schema(json!({ "name": "a", "schema": {}, "x": 1 })),
                "response_format.json_schema.x",
            ),
            (
                json!({ "response_format": { "type": "json_object", "schema": {} } }),
                "response_format.schema",
            ),
            (json!({ "guided_json": "{" }), "guided_json"),
            (json!({ "guided_regex": 1 }), "guided_regex"),
            (json!({ "guided_choice": [] }), "guided_choice"),
            (json!({ "guided_choice": [1] }), "guided_choice[0]"),
            (json!({ "structured_outputs": {} }), "structured_outputs"),
            (
                json!({ "structured_outputs": { "json": {}, "regex": "a" } }),
                "structured_outputs",
            ),
            (
                json!({ "guided_regex": "a", "response_format": { "type": "json_object" } }),
                "guided_regex",
            ),
        ] {
            let error = taken(body.clone()).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
            assert_eq!(error.status, 400);
        }
    }
}
