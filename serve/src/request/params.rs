use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::unique_keys;
use crate::error::ApiError;

/// What is counted is at most this.
const COUNT: i64 = i32::MAX as i64;

/// The fields of a JSON object, taken one by one. An error names the field, and so does
/// [`finish`](Self::finish) what nobody took. `null` is as if a field were not there.
pub(crate) struct Params {
    /// Where the object is, such as `messages[2].`; empty at the top.
    path: String,
    fields: Map<String, Value>,
}

impl Params {
    /// The object that a request's body is.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value = unique_keys::parse(body).map_err(|error| {
            let problem = match error.is_data() {
                true => format!("body: {error}"),
                false => format!("body: expected JSON: {error}"),
            };
            ApiError::new(axum::http::StatusCode::BAD_REQUEST, problem).with_code("invalid_json")
        })?;
        match value {
            Value::Object(fields) => Ok(Self {
                path: String::new(),
                fields,
            }),
            other => Err(ApiError::new(
                axum::http::StatusCode::BAD_REQUEST,
                format!("body: expected a JSON object, found {}", shown(&other)),
            )
            .with_code("invalid_json")),
        }
    }

    /// The object at `path`.
    pub(crate) fn of(path: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(fields) => Ok(Self {
                path: format!("{path}."),
                fields,
            }),
            other => Err(expected(path, "an object", &other)),
        }
    }

    /// The whole path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Any value.
    pub(crate) fn value(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(expected(&self.path(name), "a string", &other)),
        }
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(expected(&self.path(name), "true or false", &other)),
        }
    }

    pub(crate) fn number(
        &mut self,
        name: &str,
        range: RangeInclusive<f64>,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let what = format!("a number from {} to {}", range.start(), range.end());
                Err(expected(&self.path(name), &what, &value))
            }
        }
    }

    /// A number above zero, at most `most`.
    pub(crate) fn positive(&mut self, name: &str, most: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match value
            .as_f64()
            .filter(|&number| number > 0.0 && number <= most)
        {
            Some(number) => Ok(Some(number)),
            None => {
                let what = format!("a number above 0, at most {most}");
                Err(expected(&self.path(name), &what, &value))
            }
        }
    }

    pub(crate) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        match whole(&value).filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let what = format!("an integer from {} to {}", range.start(), range.end());
                Err(expected(&self.path(name), &what, &value))
            }
        }
    }

    /// A number of something, at least `least`.
    pub(crate) fn count(&mut self, name: &str, least: i64) -> Result<Option<usize>, ApiError> {
        let number = self.integer(name, least..=COUNT)?;
        Ok(number.and_then(|number| usize::try_from(number).ok()))
    }

    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values)),
            Some(other) => Err(expected(&self.path(name), "an array", &other)),
        }
    }

    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        let path = self.path(name);
        let value = self.value(name);
        value.map(|value| Self::of(&path, value)).transpose()
    }

    /// A parameter that is not there but for its default, which clients send.
    pub(crate) fn only(&mut self, name: &str, default: &[Value]) -> Result<(), ApiError> {
        match self.value(name) {
            Some(value) if !default.contains(&value) => {
                let found = shown(&value);
                let problem = match default {
                    [] => "not supported by this server".to_owned(),
                    _ => {
                        let values = default.iter().map(Value::to_string);
                        let values = values.collect::<Vec<_>>().join(" or ");
                        format!("this server supports {values} only, found {found}")
                    }
                };
                Err(ApiError::unsupported(self.path(name), problem))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left, by its name.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(ApiError {
                code: Some("unknown_parameter"),
                ..ApiError::param(
                    self.path(&clipped(name)),
                    "this server knows no such parameter",
                )
            }),
            None => Ok(()),
        }
    }
}

/// An error of a value that is something else.
pub(crate) fn expected(path: &str, what: &str, found: &Value) -> ApiError {
    ApiError::param(path, format!("expected {what}, found {}", shown(found)))
}

/// A whole number, also where it is written as `1.0`.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    // Beyond this a floating-point number stands for several whole ones.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
    };
    value.as_i64().or_else(float)
}

/// A value in a few words.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("an array of {}", values.len()),
        Value::Object(_) => "an object".to_owned(),
        other => clipped(&other.to_string()),
    }
}

fn clipped(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(value: Value) -> Params {
        Params::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_nobody_takes_is_refused_by_its_name() {
        let mut given = params(json!({ "n": 1, "store": true, "user": null }));
        assert_eq!(given.count("n", 1).unwrap(), Some(1));
        let error = given.finish().unwrap_err();
        assert_eq!(error.param.as_deref(), Some("store"));
        assert_eq!(error.code, Some("unknown_parameter"));
    }

    #[test]
    fn an_error_says_what_was_expected_and_found() {
        let given = json!({ "temperature": "hot", "top_p": 0, "n": 0, "seed": 1.5, "stop": {} });
        let mut given = params(given);
        let messages = [
            given.number("temperature", 0.0..=2.0).unwrap_err(),
            given.positive("top_p", 1.0).unwrap_err(),
            given.count("n", 1).unwrap_err(),
            given.integer("seed", i64::MIN..=i64::MAX).unwrap_err(),
            given.array("stop").unwrap_err(),
        ];
        assert_eq!(
            messages.map(|error| error.message),
            [
                "temperature: expected a number from 0 to 2, found \"hot\"",
                "top_p: expected a number above 0, at most 1, found 0",
                "n: expected an integer from 1 to 2147483647, found 0",
                "seed: expected an integer from -9223372036854775808 to 9223372036854775807, found 1.5",
                "stop: expected an array, found an object",
            ]
        );
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_point() {
        assert_eq!(whole(&json!(3.0)), Some(3));
        assert_eq!(whole(&json!(1e300)), None);
        assert_eq!(whole(&json!(u64::MAX)), None);
    }

    #[test]
    fn a_default_is_taken_and_anything_else_is_not() {
        let default = [json!(false)];
        assert!(
            params(json!({ "store": false }))
                .only("store", &default)
                .is_ok()
        );
        assert!(
            params(json!({ "store": null }))
                .only("store", &default)
                .is_ok()
        );
        let error = params(json!({ "store": true })).only("store", &default);
        let message = error.unwrap_err().message;
        assert_eq!(
            message,
            "store: this server supports false only, found true"
        );
    }

    #[test]
    fn a_long_value_is_clipped_at_a_character() {
        let text = "é".repeat(100);
        assert_eq!(shown(&json!(text)).chars().count(), 61);
    }
}
