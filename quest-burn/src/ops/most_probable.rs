use burn::tensor::{Int, Tensor};

use super::Body;

/// The token of the highest logit of each row, the lower one of equals, chosen on the device; -1 where a row
/// has no answer, because a logit is NaN or infinite or all are negative infinity. None on devices whose
/// memory the host reads as fast as it chooses: whoever asks reads the logits there.
///
/// # Shapes
///
/// - logits: `[batch, vocab_size]`
/// - output: `[batch]` in i32
pub fn most_probable(logits: Tensor<2>) -> Option<Tensor<1, Int>> {
    match Body::of(&logits.device(), logits.dtype(), 1) {
        #[cfg(feature = "cube")]
        Body::Kernels => Some(super::kernel::most_probable(logits)),
        #[cfg(feature = "flex")]
        Body::Native => None,
        Body::Reference => None,
    }
}
