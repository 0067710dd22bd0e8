use burn::{nn::Linear, tensor::Tensor};

/// Applies a linear layer to every token, as one product of two matrices.
///
/// Given three axes, [`Linear::forward`] broadcasts its weights over the first; on the CPU that
/// copies weights with [`LinearLayout::Col`](burn::nn::LinearLayout::Col) at every call.
///
/// # Shapes
///
/// - hidden: `[batch, tokens, d_input]`
/// - output: `[batch, tokens, d_output]`
///
/// # Panics
///
/// Panics if the last axis of `hidden` is not `d_input`.
pub fn project(linear: &Linear, hidden: Tensor<3>) -> Tensor<3> {
    let [batch, tokens, d_input] = hidden.dims();
    let rows = linear.forward(hidden.reshape([batch * tokens, d_input]));
    let [_, d_output] = rows.dims();
    rows.reshape([batch, tokens, d_output])
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{LinearConfig, LinearLayout},
        tensor::{Device, Distribution, Tolerance},
    };

    use super::*;

    #[test]
    fn projection_equals_the_layer() {
        let device = Device::default();
        for layout in [LinearLayout::Row, LinearLayout::Col] {
            let layer = LinearConfig::new(6, 10).with_layout(layout).init(&device);
            let hidden = Tensor::<3>::random([2, 3, 6], Distribution::Default, &device);
            project(&layer, hidden.clone())
                .into_data()
                .assert_approx_eq::<f32>(
                    &layer.forward(hidden).into_data(),
                    Tolerance::absolute(1e-5),
                );
        }
    }
}
