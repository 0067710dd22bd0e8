use burn::{
    nn::RmsNorm,
    tensor::{DType, Tensor},
};

/// Applies an RMSNorm in f32 and rounds once before the weight, as models of the Llama family do.
///
/// In f32 it is the same as [`RmsNorm::forward`]. In half precision that one rounds the root mean
/// square as well, which scales all channels of a token by up to 0.4 % in bf16, logits included.
///
/// # Shapes
///
/// - x: `[.., d_model]`
/// - output: `[.., d_model]`, of x's dtype
///
/// # Panics
///
/// Panics if the last axis of `x` is not `d_model`.
pub fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    #[cfg(feature = "cube")]
    if dtype == norm.gamma.val().dtype() && crate::kernels::device::supports(&x.device(), dtype, 1)
    {
        let shape = x.dims();
        let d_model = shape[D - 1];
        let rows = x.reshape([shape.iter().product::<usize>() / d_model, d_model]);
        return crate::kernels::rms_norm(rows, norm.gamma.val(), norm.epsilon).reshape(shape);
    }
    let x = x.cast(DType::F32);
    let rms = (x.clone().square().mean_dim(D - 1) + norm.epsilon).sqrt();
    (x / rms).cast(dtype) * norm.gamma.val().unsqueeze()
}

#[cfg(test)]
mod tests {
    use burn::{
        module::Param,
        nn::RmsNormConfig,
        tensor::{Device, Distribution, Tolerance},
    };

    use super::*;

    #[test]
    fn full_precision_equals_burns_norm() {
        let device = Device::default();
        let mut norm = RmsNormConfig::new(8).with_epsilon(1e-6).init(&device);
        norm.gamma = Param::from_tensor(Tensor::random([8], Distribution::Default, &device));
        let x = Tensor::<3>::random([2, 3, 8], Distribution::Default, &device);
        rms_norm(&norm, x.clone())
            .into_data()
            .assert_approx_eq::<f32>(&norm.forward(x).into_data(), Tolerance::relative(1e-6));
    }

    #[test]
    fn half_precision_is_rounded_once() {
        let device = Device::default();
        for (dtype, step) in [(DType::BF16, 2f32.powi(-7)), (DType::F16, 2f32.powi(-10))] {
            if !device.supports_dtype(dtype) {
                continue;
            }
            let mut norm = RmsNormConfig::new(2).with_epsilon(1e-12).init(&device);
            norm.gamma = Param::from_tensor(norm.gamma.val().cast(dtype));
            let x = Tensor::<1>::from_data([1.0, 1.0 + step], (&device, dtype));
            // The root mean square is just above the middle of 1 and the next number, `1 + step`.
            let normed = rms_norm(&norm, x).into_data_as::<f32>();
            normed.assert_eq(&[1.0 - step / 2.0, 1.0].into(), true);
        }
    }
}
