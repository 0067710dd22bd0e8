use burn::tensor::{Int, Tensor};

use crate::attention::Rope;

/// A list of tokens per head of each sequence.
#[derive(Clone, Debug)]
pub struct TokenLists {
    /// For each sequence, positions `[heads, n]`, ascending without repeats, with `heads` the number
    /// of query heads or of KV heads.
    pub positions: Vec<Tensor<2, Int>>,
    /// Where keys are read from other positions than they were stored at.
    pub shift: Option<KeyShift>,
}

/// Moves the first keys of each list to later positions.
///
/// RoPE makes products depend on how far apart query and key are, so moving the tokens before a
/// gap up to the tokens behind it is the same as numbering all of them anew, query included.
#[derive(Clone, Debug)]
pub struct KeyShift {
    /// The rotation that the keys have.
    pub rope: Rope,
    /// How many keys at the start of each list are moved.
    pub first: usize,
    /// By how many positions, for each sequence.
    pub by: Vec<usize>,
}

impl TokenLists {
    /// Whether a sequence's lists name all of its tokens.
    pub fn covers(&self, sequence: usize, length: usize) -> bool {
        self.positions[sequence].dims()[1] == length
    }
}
