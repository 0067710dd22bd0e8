use burn::tensor::Tensor;

use super::DecodeError;
use crate::cache::CacheError;

/// A way to take decode steps: [`DecodeGraph`](super::DecodeGraph) says what each method does.
pub(super) trait Run {
    fn prepare(&mut self) -> Result<(), DecodeError>;

    fn advance(&mut self) -> Result<(), DecodeError>;

    /// `n` steps, and the tokens that they chose for each sequence.
    fn run(&mut self, n: usize) -> Result<Vec<Vec<u32>>, DecodeError>;

    fn feed(&mut self, tokens: &[u32]);

    fn stop(&mut self, sequence: usize) -> Result<(), CacheError>;

    fn logits(&self) -> Option<Tensor<2>>;

    fn active(&self) -> &[bool];

    fn lengths(&self) -> Vec<usize>;

    fn vocab_size(&self) -> usize;

    fn is_hardware(&self) -> bool;

    fn recordings(&self) -> usize;
}
