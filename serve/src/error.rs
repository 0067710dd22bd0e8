use std::fmt::Display;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// An error as OpenAI's clients expect it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// The parameter that is not as it should be.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which the same request may be taken.
    pub retry_after: Option<u64>,
}

/// The body of every answer that is an error.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    pub error: ErrorObject,
}

/// What is wrong.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorObject {
    /// What was expected, found and where.
    pub message: String,
    /// The kind of error: `invalid_request_error`, `authentication_error`, `rate_limit_error`, `server_error`.
    pub r#type: &'static str,
    /// The parameter that is not as it should be.
    pub param: Option<String>,
    /// A name for programs.
    pub code: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
        }
    }

    /// A parameter with a value that it cannot have.
    pub(crate) fn param(name: impl Into<String>, problem: impl Display) -> Self {
        let name = name.into();
        let error = Self::new(StatusCode::BAD_REQUEST, format!("{name}: {problem}"));
        Self {
            param: Some(name),
            code: Some("invalid_value"),
            ..error
        }
    }

    /// A parameter that this server does not have, or not with this value.
    pub(crate) fn unsupported(name: impl Into<String>, problem: impl Display) -> Self {
        Self {
            code: Some("unsupported_parameter"),
            ..Self::param(name, problem)
        }
    }

    /// Something that failed on this side.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The server is about to end.
    pub(crate) fn shutting_down() -> Self {
        Self {
            code: Some("shutting_down"),
            retry_after: Some(5),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the server is shutting down",
            )
        }
    }

    /// There is too much to do.
    pub(crate) fn busy(message: impl Into<String>, retry_after: u64) -> Self {
        Self {
            code: Some("rate_limit_exceeded"),
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
        }
    }

    pub(crate) fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    /// As it is sent.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                r#type: match self.status {
                    StatusCode::UNAUTHORIZED => "authentication_error",
                    StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
                    status if status.is_server_error() => "server_error",
                    _ => "invalid_request_error",
                },
                param: self.param.clone(),
                code: self.code,
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json(self.status, &self.body());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// A value as the JSON body of a response.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("responses have string keys only");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
