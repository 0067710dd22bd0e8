use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::rope::Rope;

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

/// The same positions for each of `lists` lists, `[lists, n]`.
pub(crate) fn one_list(
    positions: impl Iterator<Item = i32>,
    lists: usize,
    device: &Device,
) -> Tensor<2, Int> {
    let positions = positions.collect::<Vec<_>>();
    let shape = [1, positions.len()];
    for_each(
        lists,
        Tensor::from_data(TensorData::new(positions, shape), device),
    )
}

/// One list, or one for each already: `[lists or 1, n]` -> `[lists, n]`
pub(crate) fn for_each(lists: usize, positions: Tensor<2, Int>) -> Tensor<2, Int> {
    match positions.dims() {
        // A sequence without a token; no axis of length 0 can be expanded.
        [_, 0] => Tensor::empty([lists, 0], &positions.device()),
        [_, n] => positions.expand([lists, n]),
    }
}
