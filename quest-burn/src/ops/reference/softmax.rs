use burn::tensor::{DType, Tensor};

/// Score of a token that must not be attended to: far below any real one, yet finite, so that a
/// block without a single valid token does not make NaN.
pub(super) const MASKED: f32 = -1e30;

/// Scores below a cap in size, where there is one.
pub(crate) fn capped<const D: usize>(scores: Tensor<D>, cap: Option<f64>) -> Tensor<D> {
    match cap {
        Some(cap) => (scores / cap).tanh() * cap,
        None => scores,
    }
}

/// A softmax-weighted sum of values that grows block by block, merged by the running maximum.
pub(super) struct RunningSoftmax {
    max: Tensor<3>,
    sum: Tensor<3>,
    weighted: Tensor<3>,
}

impl RunningSoftmax {
    /// The part of one block.
    ///
    /// # Shapes
    ///
    /// - max, sum: `[heads, queries, 1]`
    /// - weighted: `[heads, queries, head_dim]`
    pub(super) fn new(max: Tensor<3>, sum: Tensor<3>, weighted: Tensor<3>) -> Self {
        Self { max, sum, weighted }
    }

    /// Takes in another block of the same queries.
    pub(super) fn merge(self, other: Self) -> Self {
        let max = self.max.clone().max_pair(other.max.clone());
        let (a, b) = (
            (self.max - max.clone()).exp(),
            (other.max - max.clone()).exp(),
        );
        Self {
            max,
            sum: self.sum * a.clone() + other.sum * b.clone(),
            weighted: self.weighted * a + other.weighted * b,
        }
    }

    /// The attention output `[heads, queries, head_dim]` in the dtype that is asked for.
    pub(super) fn finish(self, dtype: DType) -> Tensor<3> {
        (self.weighted / self.sum).cast(dtype)
    }
}
