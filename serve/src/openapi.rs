use utoipa::OpenApi;

use crate::{handlers, response::ChatChunk};

/// The description of all paths.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "quest serve",
        description = "OpenAI's interface over Quest page-sparse attention. A parameter that is not \
                       described here is refused by its name.",
    ),
    paths(
        handlers::chat,
        handlers::completions,
        handlers::models,
        handlers::model,
        handlers::tokenize,
        handlers::detokenize,
        handlers::health,
        handlers::metrics,
    ),
    components(schemas(ChatChunk))
)]
struct Document;

pub(crate) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
