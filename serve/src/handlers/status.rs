use std::sync::Arc;

use axum::{
    extract,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{error::json, response::Health, state::State};

/// Whether the server takes requests.
#[utoipa::path(
    get, path = "/health", tag = "Status",
    responses(
        (status = 200, body = Health, description = "Requests are answered"),
        (status = 503, body = Health, description = "The server is shutting down, or its engine failed"),
    )
)]
pub(crate) async fn health(extract::State(state): extract::State<Arc<State>>) -> Response {
    let stats = state.backend.stats();
    let (code, status) = match (state.is_ending(), state.backend.is_running()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
        (false, true) => (StatusCode::OK, "ok"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let health = Health {
        status,
        running: stats.running,
        waiting: stats.waiting,
    };
    json(code, &health)
}

/// What Prometheus collects.
#[utoipa::path(
    get, path = "/metrics", tag = "Status",
    responses((status = 200, body = String, content_type = "text/plain", description = "Counters and gauges for Prometheus"))
)]
pub(crate) async fn metrics(extract::State(state): extract::State<Arc<State>>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind)],
        state.metrics.text(&state.backend.stats()),
    )
        .into_response()
}
