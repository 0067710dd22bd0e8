use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Device, Tensor},
};
use quest_burn_models::{config::ModelConfig, model::CausalLm};

use crate::BenchError;

/// A model whose weights are random and of the given element type.
///
/// They are made on the device one after another, so that beside the model there is never more
/// than one weight in f32.
pub fn model(config: &ModelConfig, device: &Device, dtype: DType) -> Result<CausalLm, BenchError> {
    let model = config.init(device).map(&mut Cast(dtype));
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
        let model = model(&config, &device, DType::F16).unwrap();
        let mut parameters = 0;
        model.visit(&mut Check(DType::F16, &mut parameters));
        assert_eq!(parameters, config.n_parameters());
        let [d_model, d_ff] = model.layers[0].mlp.gate_proj.weight.val().dims();
        assert_eq!([d_model, d_ff], [config.d_model, config.d_ff]);
    }
}
