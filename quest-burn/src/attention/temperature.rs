use burn::{
    config::Config,
    tensor::{DType, FloatDType, Int, Tensor},
};

/// What queries of layers without a rotary embedding are multiplied by, so that attention stays as peaky in
/// long texts as in short ones ([scalable softmax](https://arxiv.org/abs/2501.19399), as Llama 4 has it):
/// `1 + scale * ln(1 + floor((position + 1) / floor))`.
#[derive(Config, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Tokens after which the factor grows for the first time.
    pub floor: usize,
    /// How much it grows.
    pub scale: f64,
}

impl Temperature {
    /// Multiplies queries by their factors.
    ///
    /// # Shapes
    ///
    /// - query: `[batch, heads, tokens, head_dim]`
    /// - positions: `[batch, tokens]`
    pub fn apply(&self, query: Tensor<4>, positions: Tensor<2, Int>) -> Tensor<4> {
        let steps = (positions + 1).div_scalar(self.floor as i32);
        let steps = steps.cast(FloatDType::F32).unsqueeze_dims::<4>(&[1, 3]);
        let factors = (steps + 1.0).log() * self.scale + 1.0;
        let dtype = query.dtype();
        (query.cast(DType::F32) * factors).cast(dtype)
    }
}
