//! How sparse the attention of each layer is: the smallest token budget that keeps the perplexity
//! of a text when only that layer is sparse (figure 3 of the paper).

mod experiment;
mod only_layer;
mod report;

pub use experiment::{LayerPerplexity, SparsityConfig, SparsityRow, rows, run};
pub use only_layer::OnlyLayer;
pub use report::{figure, table};
