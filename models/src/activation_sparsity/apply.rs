//! A model that skips channels.

use burn::tensor::{DType, Device, Tensor, TensorData};
use quest_burn::inference::WeightFormat;
use quest_burn_linear::{InferenceLinear, LinearWeight, LowRank, SparseWeight};

use super::{ActivationSparsity, Factors, ModelShape, Projection, SparsityError};
use crate::{config::ModelConfig, inference::InferenceLm, model::LanguageModel};

/// How far a fingerprint may be from that of the model that was calibrated. Rounding to four bits moves one by
/// less than a tenth; those of two models are as far apart as two numbers from a normal distribution.
const SAME_WEIGHTS: f32 = 0.3;

impl ActivationSparsity {
    /// Refuses models of another shape, devices where nothing is skipped, and forms of weights of which no
    /// channels are.
    ///
    /// # Errors
    ///
    /// In these cases.
    pub fn check(
        &self,
        config: &ModelConfig,
        format: WeightFormat,
        device: &Device,
    ) -> Result<(), SparsityError> {
        let (expected, found) = (ModelShape::of(config).fields(), self.model.fields());
        for ((field, expected), (_, found)) in expected.into_iter().zip(found) {
            if expected != found {
                return Err(SparsityError::Shape {
                    field,
                    expected,
                    found,
                });
            }
        }
        check_form(config, format)?;
        check_device(device)
    }

    /// The model with projections that skip channels, with weights in 8 bits where that is the form, else in the
    /// dtype that the model computes in. One projection at a time is there twice.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check), and when the weights are not those that were calibrated or cannot be rounded.
    pub fn apply(
        &self,
        model: InferenceLm,
        config: &ModelConfig,
        format: WeightFormat,
    ) -> Result<InferenceLm, SparsityError> {
        self.check(config, format, &model.device())?;
        model.map_projections(|layer, projection, linear| {
            self.sparse(layer, projection, linear, format)
        })
    }

    fn sparse(
        &self,
        layer: usize,
        projection: Projection,
        linear: InferenceLinear,
        format: WeightFormat,
    ) -> Result<InferenceLinear, SparsityError> {
        let of = self.of(layer, projection);
        let weight = linear.weight().dequantize();
        let found = fingerprint(&weight);
        let is_same = (found - of.fingerprint).abs() <= SAME_WEIGHTS;
        if !is_same {
            return Err(SparsityError::Weights {
                layer,
                projection,
                expected: of.fingerprint,
                found,
            });
        }
        let device = weight.device();
        let low_rank = of.low_rank.as_ref();
        let low_rank = low_rank.map(|factors| factors.on(&device, weight.dtype()));
        let weight = match format {
            WeightFormat::Int8 => SparseWeight::int8(weight, of.threshold, low_rank)?,
            _ => SparseWeight::new(weight, of.threshold, low_rank),
        };
        Ok(linear.replace_weight(LinearWeight::Sparse(weight)))
    }
}

impl Factors {
    fn on(&self, device: &Device, dtype: DType) -> LowRank {
        let tensor = |data: &TensorData| {
            Tensor::<2>::from_data(data.clone(), (device, DType::F16)).cast(dtype)
        };
        LowRank {
            down: tensor(&self.down),
            up: tensor(&self.up),
        }
    }
}

/// A number by which the weights of one model are told from those of another: their sum with a fixed sign for each
/// row and each column, over their norm.
pub(super) fn fingerprint(weight: &Tensor<2>) -> f32 {
    let [d_output, d_input] = weight.dims();
    let device = weight.device();
    let signs = |n: usize, shape: [usize; 2], seed: u32| {
        let signs = (0..n as u32).map(|i| {
            // The highest bit of a hash.
            let hash = (i ^ seed).wrapping_mul(0x9e37_79b1);
            let hash = (hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca6b);
            if hash >> 31 == 0 { 1.0_f32 } else { -1.0 }
        });
        let signs = TensorData::new(signs.collect::<Vec<_>>(), shape);
        Tensor::<2>::from_data(signs, (&device, DType::F32))
    };
    let weight = weight.clone().cast(DType::F32);
    let norm = weight.clone().square().sum().sqrt().into_scalar::<f32>();
    let rows = signs(d_output, [1, d_output], 1).matmul(weight);
    let sum = rows.matmul(signs(d_input, [d_input, 1], 2));
    sum.into_scalar::<f32>() / norm.max(f32::MIN_POSITIVE)
}

fn check_form(config: &ModelConfig, format: WeightFormat) -> Result<(), SparsityError> {
    match (&config.quantization, format) {
        (Some(stored), _) => {
            let bits = stored.bits;
            Err(SparsityError::Form(format!("a checkpoint in {bits} bits")))
        }
        (None, WeightFormat::Int4) => Err(SparsityError::Form(format.to_string())),
        (None, _) => Ok(()),
    }
}

fn check_device(device: &Device) -> Result<(), SparsityError> {
    match SparseWeight::skips_on(device) {
        true => Ok(()),
        false => Err(SparsityError::Device(format!("{device:?}"))),
    }
}
