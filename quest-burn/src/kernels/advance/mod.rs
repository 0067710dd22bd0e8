//! Moving a captured step on.

mod kernel;

use burn::{
    backend::Dispatch,
    tensor::{DType, Int, Tensor},
};

pub(crate) use self::kernel::launch_advance;
use super::check::check_dtype;
use crate::ops::extension::QuestOps;

/// Adds 1 to every count of tokens, in place: how a captured step moves on when it is replayed.
///
/// # Shapes
///
/// - counts, output: `[batch]` in i32
///
/// # Panics
///
/// When the counts are not i32 or cannot be written in place.
pub fn advance(counts: Tensor<1, Int>) -> Tensor<1, Int> {
    check_dtype("token counts", counts.dtype(), DType::I32);
    Tensor::from_dispatch(Dispatch::advance(counts.into_dispatch()))
}
