use burn::{
    nn::Dropout,
    tensor::{Bool, DType, Tensor, activation::softmax},
};

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
    scale: f64,
    window: Option<usize>,
    dropout: &Dropout,
) -> Tensor<4> {
    let [batch, n_heads, tokens, head_dim] = query.dims();
    let [_, n_kv_heads, _, _] = keys.dims();
    let group = n_heads / n_kv_heads;
    let dtype = query.dtype();
    let device = query.device();
    let scores = query
        .mul_scalar(scale)
        .reshape([batch, n_kv_heads, group * tokens, head_dim])
        .matmul(keys.transpose())
        .cast(DType::F32)
        .reshape([batch * n_kv_heads, group, tokens, tokens]);
    let mut hidden = Tensor::<2, Bool>::tril_mask([tokens, tokens], 0, &device);
    if let Some(window) = window.filter(|window| *window < tokens) {
        let past = Tensor::<2, Bool>::triu_mask([tokens, tokens], 1 - window as i64, &device);
        hidden = hidden.bool_or(past);
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
