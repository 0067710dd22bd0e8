//! The model as it is trained: any positions, and layers that do not see far.

use burn::tensor::{Device, Int, Tensor, TensorData};
use quest_burn::attention::{QuestAttention, Rotations, project, rms_norm};
use quest_burn_models::model::CausalLm;

/// Added to scores of tokens that are not visible.
const HIDDEN: f32 = -1e30;

/// What each layer sees.
pub(crate) struct Sight {
    /// Added to the scores of each layer, `[1, 1, tokens, tokens]`.
    biases: Vec<Tensor<4>>,
}

impl Sight {
    /// Causal; layer `i` sees the newest `windows[i]` tokens, or all where that is `None`.
    pub(crate) fn new(windows: &[Option<usize>], tokens: usize, device: &Device) -> Self {
        let mut made: Vec<(Option<usize>, Tensor<4>)> = Vec::new();
        let mut bias = |window: Option<usize>| {
            // A window as long as the sequence hides nothing.
            let window = window.filter(|window| *window < tokens);
            if let Some((_, bias)) = made.iter().find(|(other, _)| *other == window) {
                return bias.clone();
            }
            let bias = causal_bias(tokens, window, device);
            made.push((window, bias.clone()));
            bias
        };
        Self {
            biases: windows.iter().map(|&window| bias(window)).collect(),
        }
    }
}

fn causal_bias(tokens: usize, window: Option<usize>, device: &Device) -> Tensor<4> {
    let index = Tensor::<1, Int>::arange(0..tokens as i64, device);
    let query = index.clone().reshape([tokens, 1]);
    let distance = query - index.reshape([1, tokens]);
    let bias = Tensor::<2>::zeros([tokens, tokens], device);
    let bias = bias.mask_fill(distance.clone().lower_scalar(0), HIDDEN);
    match window {
        Some(window) => bias.mask_fill(distance.greater_equal_scalar(window as i64), HIDDEN),
        None => bias,
    }
    .reshape([1, 1, tokens, tokens])
}

/// Rows of the identity: `ids[i]` is 1 in row `i`.
///
/// As a factor of a product it looks a row up, and its gradient is a product too; the gradient of
/// a lookup adds rows one after the other.
pub(crate) fn one_hot(ids: Tensor<1, Int>, classes: usize) -> Tensor<2> {
    let [rows] = ids.dims();
    let device = ids.device();
    let classes = Tensor::<1, Int>::arange(0..classes as i64, &device).unsqueeze_dim::<2>(0);
    let [_, n_classes] = classes.dims();
    let ids = ids.reshape([rows, 1]).expand([rows, n_classes]);
    ids.equal(classes.expand([rows, n_classes])).float()
}

/// Logits at every token.
///
/// The same as [`CausalLm::forward`] when positions count up from zero and every layer sees
/// everything.
///
/// # Shapes
///
/// - ids, positions: `[batch, tokens]`
/// - output: `[batch * tokens, vocab_size]`
pub(crate) fn logits(
    model: &CausalLm,
    ids: Tensor<2, Int>,
    positions: Tensor<2, Int>,
    sight: &Sight,
) -> Tensor<2> {
    let [batch, tokens] = ids.dims();
    let embedding = model.embed_tokens.weight.val();
    let [vocab_size, d_model] = embedding.dims();
    let rotations = model.layers[0]
        .self_attn
        .rope
        .as_ref()
        .expect("models of the Llama family rotate")
        .rotations(positions);
    let hidden = one_hot(ids.reshape([batch * tokens]), vocab_size)
        .matmul(embedding.clone())
        .reshape([batch, tokens, d_model]);
    let layers = model.layers.iter().zip(&sight.biases);
    let hidden = layers.fold(hidden, |hidden, (layer, bias)| {
        let normed = rms_norm(&layer.input_layernorm, hidden.clone());
        let hidden = hidden + attention(&layer.self_attn, normed, &rotations, bias);
        let normed = rms_norm(&layer.post_attention_layernorm, hidden.clone());
        hidden + layer.mlp.forward(normed)
    });
    rms_norm(&model.norm, hidden)
        .reshape([batch * tokens, d_model])
        .matmul(embedding.transpose())
}

fn attention(
    layer: &QuestAttention,
    hidden: Tensor<3>,
    rotations: &Rotations,
    bias: &Tensor<4>,
) -> Tensor<3> {
    let [batch, tokens, _] = hidden.dims();
    let (n_heads, n_kv_heads, head_dim) = (layer.n_heads, layer.n_kv_heads, layer.head_dim);
    let group = n_heads / n_kv_heads;
    let heads = |projected: Tensor<3>, heads: usize| {
        projected
            .reshape([batch, tokens, heads, head_dim])
            .swap_dims(1, 2)
    };
    let query = rotations.apply(heads(project(&layer.q_proj, hidden.clone()), n_heads));
    let keys = rotations.apply(heads(project(&layer.k_proj, hidden.clone()), n_kv_heads));
    let values = heads(project(&layer.v_proj, hidden), n_kv_heads);
    let per_group = [batch, n_kv_heads, group * tokens, head_dim];
    let scores = query
        .mul_scalar((head_dim as f64).sqrt().recip())
        .reshape(per_group)
        .matmul(keys.transpose())
        .reshape([batch * n_kv_heads, group, tokens, tokens])
        + bias.clone();
    // The softmax divides after the product with the values: of each layer's scores the backward
    // pass then needs one tensor.
    let most = scores.clone().detach().max_dim(3);
    let weights = (scores - most).exp();
    let sums = weights.clone().sum_dim(3);
    let out = weights
        .reshape([batch, n_kv_heads, group * tokens, tokens])
        .matmul(values)
        .div(sums.reshape([batch, n_kv_heads, group * tokens, 1]));
    let out = out
        .reshape([batch, n_heads, tokens, head_dim])
        .swap_dims(1, 2)
        .reshape([batch, tokens, n_heads * head_dim]);
    project(&layer.o_proj, out)
}

/// A tensor of ids or positions from the host.
pub(crate) fn rows(values: &[i32], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;
    use crate::model::{tiny_model, weights};

    fn ids(batch: usize, tokens: usize, device: &Device) -> Tensor<2, Int> {
        let ids = (0..(batch * tokens) as i32).map(|i| (i * i + 3) % 97);
        rows(&ids.collect::<Vec<_>>(), [batch, tokens], device)
    }

    fn counting(batch: usize, tokens: usize, first: i32, device: &Device) -> Tensor<2, Int> {
        let positions = (0..batch).flat_map(|_| first..first + tokens as i32);
        rows(&positions.collect::<Vec<_>>(), [batch, tokens], device)
    }

    #[test]
    fn without_limits_it_is_the_model_and_only_distances_count() {
        let device = Device::default();
        let config = tiny_model(100);
        let model = weights(&config, 1, &device);
        let ids = ids(2, 20, &device);
        let sight = Sight::new(&vec![None; config.n_layers], 20, &device);
        let expected = model.forward(ids.clone()).reshape([40, 100]).into_data();
        for first in [0, 300] {
            let positions = counting(2, 20, first, &device);
            logits(&model, ids.clone(), positions, &sight)
                .into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
        }
    }

    #[test]
    fn a_window_in_every_layer_bounds_what_a_token_depends_on() {
        let device = Device::default();
        let config = tiny_model(100);
        let model = weights(&config, 2, &device);
        let window = 3;
        let sight = Sight::new(&vec![Some(window); config.n_layers], 20, &device);
        let positions = counting(1, 20, 0, &device);
        let run = |ids: Tensor<2, Int>| logits(&model, ids, positions.clone(), &sight);
        let ids = ids(1, 20, &device);
        let changed = ids
            .clone()
            .slice_assign([0..1, 0..1], ids.clone().slice([0..1, 5..6]) + 1);
        let difference = (run(ids) - run(changed)).abs().max_dim(1).into_data();
        let difference = difference.try_to_vec::<f32>().unwrap();
        let reach = (window - 1) * config.n_layers;
        assert!(difference[..=reach].iter().all(|d| *d > 0.0));
        assert!(difference[reach + 1..].iter().all(|d| *d == 0.0));
    }

    #[test]
    fn one_hot_rows_look_up() {
        let device = Device::default();
        let ids = Tensor::<1, Int>::from_data([2, 0, 3], &device);
        one_hot(ids, 4).into_data().assert_eq(
            &TensorData::from([[0f32, 0., 1., 0.], [1., 0., 0., 0.], [0., 0., 0., 1.]]),
            false,
        );
    }
}
