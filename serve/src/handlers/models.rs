use std::sync::Arc;

use axum::{
    extract::{self, Path},
    http::StatusCode,
    response::Response,
};

use crate::{
    error::{ApiError, ErrorBody, json},
    request::unknown_model,
    response::{Model, ModelList},
    state::State,
};

/// The models that are served.
#[utoipa::path(
    get, path = "/v1/models", tag = "OpenAI",
    responses((status = 200, body = ModelList, description = "The models that are served"))
)]
pub(crate) async fn models(extract::State(state): extract::State<Arc<State>>) -> Response {
    let models = state.model.names.iter();
    let list = ModelList {
        object: "list",
        data: models.map(|name| describe(name, &state)).collect(),
    };
    json(StatusCode::OK, &list)
}

/// A model by its name.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "OpenAI",
    params(("model" = String, Path, description = "Its name")),
    responses(
        (status = 200, body = Model, description = "The model"),
        (status = 404, body = ErrorBody, description = "No such model is served"),
    )
)]
pub(crate) async fn model(
    extract::State(state): extract::State<Arc<State>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    match state.model.names.contains(&name) {
        true => Ok(json(StatusCode::OK, &describe(&name, &state))),
        false => Err(unknown_model(&name, &state.model)),
    }
}

fn describe(name: &str, state: &State) -> Model {
    Model {
        id: name.to_owned(),
        object: "model",
        created: state.started,
        owned_by: "quest",
        max_model_len: state.model.max_context,
    }
}
