use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Device, Tensor},
};
use quest_burn::inference::WeightFormat;
use quest_burn_models::{config::ModelConfig, inference::InferenceLm};

use crate::BenchError;

/// A model whose weights are random, of the given element type and form.
///
/// They are made on the device one layer after another, so that besides the model there is never more
/// than one layer in f32 and in the element type.
pub(super) fn model(
    config: &ModelConfig,
    device: &Device,
    dtype: DType,
    format: WeightFormat,
) -> Result<InferenceLm, BenchError> {
    // Nothing is drawn before it is used.
    let model = config.init(device);
    let layers = model.layers.into_iter().map(|layer| {
        let layer = layer.map(&mut Cast(dtype));
        device.sync()?;
        Ok::<_, BenchError>(layer)
    });
    let model = InferenceLm::from_layers(
        model.embed_tokens.map(&mut Cast(dtype)),
        layers,
        model.norm.map(&mut Cast(dtype)),
        model.lm_head.map(|lm_head| lm_head.map(&mut Cast(dtype))),
        format,
    )?;
    device.sync()?;
    Ok(model)
}

struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Cast as it is stored: the cast of a transposed view would lie in memory the other way.
        let stored = param.transform_for_save().val().cast(self.0);
        let id = param.id;
        param.transform_for_load(stored, id)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::ModuleVisitor;

    use super::*;
    use crate::model::ShapeName;

    #[test]
    fn every_weight_has_the_element_type_and_the_models_shape() {
        struct Check<'a>(DType, &'a mut u64);
        impl ModuleVisitor for Check<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                assert_eq!(param.val().dtype(), self.0);
                *self.1 += param.val().dims().iter().product::<usize>() as u64;
            }
        }
        let config = ShapeName::Tiny.config();
        let device = Device::default();
        let model = config.init(&device).map(&mut Cast(DType::F16));
        let mut parameters = 0;
        model.visit(&mut Check(DType::F16, &mut parameters));
        assert_eq!(parameters, config.n_parameters());
        let mlp = model.layers[0].mlp.gated().unwrap();
        let [d_model, d_ff] = mlp.gate_proj.weight.val().dims();
        assert_eq!([d_model, d_ff], [config.d_model, config.d_ff]);
    }
}
