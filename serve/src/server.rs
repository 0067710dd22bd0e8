use std::{any::Any, future::Future, io, sync::Arc};

use axum::{
    Router,
    extract::{self, Request},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use tokio::net::TcpListener;
use tower_http::{catch_panic::CatchPanicLayer, set_header::SetResponseHeaderLayer};

use crate::{
    backend::Backend,
    config::{ModelInfo, ServerConfig},
    error::{ApiError, json},
    handlers, openapi,
    state::State,
    text::Text,
};

/// An HTTP server over an engine.
#[derive(Clone, Debug)]
pub struct Server {
    state: Arc<State>,
}

impl Server {
    /// A server of one model.
    ///
    /// # Panics
    ///
    /// When the model has no name.
    pub fn new(
        config: ServerConfig,
        model: ModelInfo,
        text: Arc<dyn Text>,
        backend: Arc<dyn Backend>,
    ) -> Self {
        assert!(!model.names.is_empty(), "a model needs a name");
        Self {
            state: Arc::new(State::new(config, model, text, backend)),
        }
    }

    /// All paths, to be served or called in the process.
    pub fn router(&self) -> Router {
        let nosniff = SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        Router::new()
            .route("/", get(handlers::index))
            .route("/page.js", get(handlers::script))
            .route("/page.css", get(handlers::style))
            .route("/health", get(handlers::health))
            .route("/metrics", get(handlers::metrics))
            .route("/openapi.json", get(document))
            .route("/tokenize", post(handlers::tokenize))
            .route("/detokenize", post(handlers::detokenize))
            .route("/v1/models", get(handlers::models))
            .route("/v1/models/{*model}", get(handlers::model))
            .route("/v1/completions", post(handlers::completions))
            .route("/v1/chat/completions", post(handlers::chat))
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(CatchPanicLayer::custom(panicked))
            .layer(from_fn_with_state(self.state.clone(), refuse_at_end))
            .layer(from_fn_with_state(self.state.clone(), check_key))
            .layer(from_fn_with_state(self.state.clone(), count))
            .layer(nosniff)
            .with_state(self.state.clone())
    }

    /// Serves until `shutdown` comes. Then no request is taken any more, and running ones come to their
    /// ends.
    ///
    /// # Errors
    ///
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let router = self.router();
        let state = self.state.clone();
        // A token is sent when it is there.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                log::debug!("TCP_NODELAY: {error}");
            }
        });
        // Who connects meanwhile is told that the server ends, rather than nothing.
        let shutdown = async move {
            shutdown.await;
            state.end();
            state.idle().await;
        };
        axum::serve(listener, router)
            .with_graceful_shutdown(shutdown)
            .await
    }
}

async fn document() -> Response {
    json(StatusCode::OK, &openapi::document())
}

async fn not_found(request: Request) -> ApiError {
    let message = format!(
        "no such path: {} {}",
        request.method(),
        request.uri().path()
    );
    ApiError::new(StatusCode::NOT_FOUND, message).with_code("unknown_url")
}

async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!("{} is not for {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).with_code("method_not_allowed")
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    log::error!("a request panicked: {}", text.unwrap_or_default());
    ApiError::internal("the server failed at this request").into_response()
}

/// Refuses requests once the server ends, but for those that ask how it is.
async fn refuse_at_end(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    const STATUS: [&str; 2] = ["/health", "/metrics"];
    match state.is_ending() && !STATUS.contains(&request.uri().path()) {
        true => ApiError::shutting_down().into_response(),
        false => next.run(request).await,
    }
}

/// Paths that tell nothing of what is asked here.
const OPEN: [&str; 5] = ["/", "/page.js", "/page.css", "/health", "/openapi.json"];

async fn check_key(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let keys = &state.config.api_keys;
    if keys.is_empty() || OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok());
    let key = given.and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    // Every key is compared, so that the time does not tell which one it was.
    let is_known = |key: &str| {
        keys.iter()
            .fold(false, |known, other| known | same(key, other))
    };
    match key {
        Some(key) if is_known(key) => next.run(request).await,
        _ => {
            let found = match key {
                Some(_) => "another one",
                None => "none",
            };
            let message = format!(
                "authorization: expected a key of this server as `Bearer KEY`, found {found}"
            );
            let error = ApiError::new(StatusCode::UNAUTHORIZED, message);
            error.with_code("invalid_api_key").into_response()
        }
    }
}

/// Whether two keys are the same, in a time that does not depend on where they differ.
fn same(a: &str, b: &str) -> bool {
    let pairs = a.bytes().zip(b.bytes());
    let differences = pairs.fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differences == 0
}

/// Counts requests by path and status.
async fn count(
    extract::State(state): extract::State<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    const PATHS: [&str; 9] = [
        "/",
        "/health",
        "/metrics",
        "/openapi.json",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/v1/completions",
        "/v1/chat/completions",
    ];
    let path = PATHS.into_iter().find(|path| *path == request.uri().path());
    let started = std::time::Instant::now();
    let response = next.run(request).await;
    let (path, status) = (path.unwrap_or("other"), response.status().as_u16());
    state.metrics.request(path, status);
    log::debug!("{path} {status} {:?}", started.elapsed());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_or_not() {
        assert!(same("abc", "abc") && same("", ""));
        assert!(!same("abc", "abd") && !same("abc", "ab") && !same("", "a"));
    }
}
