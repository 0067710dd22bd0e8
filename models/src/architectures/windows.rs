//! Which layers have a sliding window.

use super::family::flag;
use crate::{
    config::{
        Windows,
        fields::{Fields, MAX_SIZE},
        hugging_face::MAX_LAYERS,
    },
    error::ModelError,
};

const WINDOW: &str = "sliding_window";
const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// All layers, where the model has a window.
pub(super) fn everywhere(fields: &Fields<'_>) -> Result<Option<Windows>, ModelError> {
    windows(fields, |_| true)
}

/// Layers from `max_window_layers` on, or those that are named, where the window is used.
pub(super) fn where_used(fields: &Fields<'_>) -> Result<Option<Windows>, ModelError> {
    if !flag(fields, "use_sliding_window")? {
        return Ok(None);
    }
    let first = fields
        .optional::<usize>("max_window_layers")?
        .unwrap_or(usize::MAX);
    windows(fields, |layer| layer >= first)
}

/// All layers but every n-th, or those that are named.
pub(super) fn but_every(fields: &Fields<'_>, name: &str) -> Result<Option<Windows>, ModelError> {
    let n = fields.size(name, MAX_SIZE)?;
    windows(fields, |layer| !(layer + 1).is_multiple_of(n))
}

pub(super) fn n_layers(fields: &Fields<'_>) -> Result<usize, ModelError> {
    fields.size("num_hidden_layers", MAX_LAYERS)
}

/// A window in the layers that `layer_types` names, or that `has` says.
fn windows(
    fields: &Fields<'_>,
    has: impl Fn(usize) -> bool,
) -> Result<Option<Windows>, ModelError> {
    const TYPES: &str = "layer_types";
    let n_layers = n_layers(fields)?;
    let Some(tokens) = fields.optional_size(WINDOW, MAX_SIZE)? else {
        return Ok(None);
    };
    let layers = match fields.optional::<Vec<String>>(TYPES)? {
        None => (0..n_layers).map(has).collect(),
        Some(types) if types.len() == n_layers => {
            let is_sliding = |kind: String| match kind.as_str() {
                SLIDING => Ok(true),
                FULL => Ok(false),
                _ => Err(fields.unsupported(
                    "type of layer",
                    kind,
                    "full_attention, sliding_attention",
                )),
            };
            types
                .into_iter()
                .map(is_sliding)
                .collect::<Result<_, _>>()?
        }
        Some(types) => {
            let problem = format!(
                "expected {n_layers}, one for each layer, found {}",
                types.len()
            );
            return Err(fields.invalid(TYPES, problem));
        }
    };
    Ok(Some(Windows {
        tokens,
        are_chunks: false,
        layers,
        rope: None,
    }))
}
