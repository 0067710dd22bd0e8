//! Products of rows with a layer's weights as native code: vector instructions chosen when it runs,
//! threads, weights read where they lie.
//!
//! | file | what it is |
//! |---|---|
//! | `level` | AVX-512 with VNNI, AVX2, and what every processor has |
//! | `lhs` | the LHS rows in bytes |
//! | `integers` | weights that are integers with scales: products of bytes |
//! | `floats` | weights that are floats |
//! | `product` | weight rows shared among threads, a few LHS rows |
//! | `matrices` | many rows: weights widened a block at a time, products of matrices |
//!
//! A thread takes neighbouring weight rows one after the other, and the sum of an output depends on its
//! weight row and its LHS row only: results do not depend on the number of threads, nor on the other
//! rows.

mod floats;
mod integers;
mod level;
mod lhs;
mod matrices;
mod product;
mod weights;

pub use level::LevelName;
pub use product::{MANY_ROWS, product, product_at};
pub use weights::{Groups, Weights};
