use burn::{
    nn::Dropout,
    tensor::{Bool, DType, Int, Tensor, activation::softmax},
};

use crate::{ops::reference::capped, pages::Window};

/// How scores are made of products.
pub(super) struct Scores {
    /// What products are multiplied by.
    pub scale: f64,
    /// What scores are kept below.
    pub soft_cap: Option<f64>,
    /// Tokens that a token sees.
    pub window: Option<Window>,
}

/// Causal attention over whole sequences, without a cache: for training. In a window a token sees itself
/// and those before it, so many in all.
///
/// Keys and values are not repeated for the query heads of a group.
///
/// # Shapes
///
/// - query: `[batch, n_heads, tokens, head_dim]`
/// - keys, values: `[batch, n_kv_heads, tokens, head_dim]`
/// - output: `[batch, n_heads, tokens, head_dim]`
pub(super) fn causal_attention(
    query: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    scores: &Scores,
    dropout: &Dropout,
) -> Tensor<4> {
    let [batch, n_heads, tokens, head_dim] = query.dims();
    let [_, n_kv_heads, _, _] = keys.dims();
    let group = n_heads / n_kv_heads;
    let dtype = query.dtype();
    let device = query.device();
    let &Scores {
        scale,
        soft_cap,
        window,
    } = scores;
    let scores = query
        .mul_scalar(scale)
        .reshape([batch, n_kv_heads, group * tokens, head_dim])
        .matmul(keys.transpose())
        .cast(DType::F32)
        .reshape([batch * n_kv_heads, group, tokens, tokens]);
    let scores = capped(scores, soft_cap);
    let mut hidden = Tensor::<2, Bool>::tril_mask([tokens, tokens], 0, &device);
    match window.filter(|window| window.tokens() < tokens) {
        None => {}
        Some(Window::Sliding { tokens: window }) => {
            let past = Tensor::<2, Bool>::triu_mask([tokens, tokens], 1 - window as i64, &device);
            hidden = hidden.bool_or(past);
        }
        Some(Window::Chunk { tokens: chunk }) => {
            let chunks =
                Tensor::<1, Int>::arange(0..tokens as i64, &device).div_scalar(chunk as i32);
            let shape = [tokens, tokens];
            let (query, key) = (
                chunks.clone().reshape([tokens, 1]).expand(shape),
                chunks.reshape([1, tokens]).expand(shape),
            );
            hidden = hidden.bool_or(key.not_equal(query));
        }
    }
    let hidden =
        hidden
            .reshape([1, 1, tokens, tokens])
            .expand([batch * n_kv_heads, group, tokens, tokens]);
    let weights = softmax(scores.mask_fill(hidden, f32::NEG_INFINITY), 3).cast(dtype);
    dropout
        .forward(weights)
        .reshape([batch, n_kv_heads, group * tokens, tokens])
        .matmul(values)
        .reshape([batch, n_heads, tokens, head_dim])
}
