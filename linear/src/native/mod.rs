//! Products of rows with a layer's weights as native code: vector instructions chosen when it runs,
//! threads, weights read where they lie.
//!
//! | file | what it is |
//! |---|---|
//! | `level` | AVX-512 with VNNI, AVX2, and what every processor has, ARM among them |
//! | `lhs` | the LHS rows in bytes |
//! | `unpack` | blocks of every format as vectors |
//! | `integers` | weights that are integers with scales: products of bytes |
//! | `floats` | weights that are floats |
//! | `team` | threads that stay awake between the operations of a step |
//! | `product` | weight rows shared among threads, a few LHS rows |
//! | `matrices` | many rows: weights widened for each product, a part at a time, and products of matrices |
//! | `channels` | weights by input channels: those that matter to a row |
//!
//! A thread takes neighbouring weight rows one after the other, and the sum of an output depends on its
//! weight row and its LHS row only: results do not depend on the number of threads, nor on the other
//! rows.

mod channels;
mod floats;
mod integers;
mod level;
mod lhs;
mod matrices;
mod product;
pub mod team;
mod unpack;
mod weights;

pub use channels::{ActiveChannel, Channels, add_channels, add_channels_at, channel_product};
pub use level::LevelName;
pub(crate) use lhs::rounded_off;
pub(crate) use product::side_by_side;
pub use product::{MANY_ROWS, product, product_at, stacked_product};
pub use weights::{Groups, Weights};
