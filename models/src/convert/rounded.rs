//! Projections in few bits, as GPTQ stores them: what a model is loaded from without rounding it again.

use std::sync::{Arc, OnceLock};

use burn::{
    store::burn_pack::{Bytes, Error, Tensor as Stored},
    tensor::{DType, Device, Tensor, TensorData},
};
use quest_burn::inference::{QuantizationConfig, QuantizedWeight, WeightFormat};
use serde_json::{Value, json};

use super::ConvertError;

/// What the names of the decoder's layers begin with, in all generations of checkpoints.
const LAYERS: [&str; 4] = [
    "model.layers.",
    "layers.",
    "language_model.model.layers.",
    "model.language_model.layers.",
];
const PROJECTION: &str = "_proj.weight";

/// Tensors with the projections of the layers rounded.
pub(super) struct Rounded {
    pub tensors: Vec<Stored>,
    /// Field `quantization_config` of the configuration.
    pub config: Value,
}

/// Rounds the projections of the layers in the given form, when they are written. All of them have groups of
/// one size, the largest that divides the rows of each.
pub(super) fn round(
    tensors: Vec<Stored>,
    format: WeightFormat,
    device: &Device,
) -> Result<Option<Rounded>, ConvertError> {
    let Some(mut config) = format.quantization() else {
        return Ok(None);
    };
    let per_word = 32 / config.bits;
    for tensor in tensors.iter().filter(|tensor| is_projection(tensor)) {
        let [d_output, d_input] = tensor.shape.dims();
        config = config.with_group(config.group_of(d_input)?);
        if !d_output.is_multiple_of(per_word) {
            return Err(ConvertError::Outputs {
                name: tensor.name.clone(),
                multiple: per_word,
                found: d_output,
            });
        }
    }
    let mut rounded = Vec::new();
    for tensor in tensors {
        match is_projection(&tensor) {
            true => rounded.extend(Projection::new(tensor, config, device).tensors()),
            false => rounded.push(tensor),
        }
    }
    Ok(Some(Rounded {
        tensors: rounded,
        config: json!({
            "quant_method": "gptq", "checkpoint_format": "gptq_v2", "bits": config.bits,
            "group_size": config.group, "desc_act": false, "sym": !config.asymmetric
        }),
    }))
}

fn is_projection(tensor: &Stored) -> bool {
    let name = &tensor.name;
    let is_of_layer = LAYERS.iter().any(|start| name.starts_with(start));
    is_of_layer && name.ends_with(PROJECTION) && tensor.shape.num_dims() == 2
}

/// A projection that is rounded when one of its parts is asked for.
#[derive(Clone)]
struct Projection {
    weight: Stored,
    config: QuantizationConfig,
    device: Device,
    /// What is small stays, so that nothing is rounded more than twice.
    beside: Arc<OnceLock<Beside>>,
}

/// The parts beside the packed weights.
struct Beside {
    /// `[groups, d_output]`
    scales: Vec<u8>,
    /// `[groups, d_output * bits / 32]`
    zeros: Vec<i32>,
}

impl Projection {
    fn new(weight: Stored, config: QuantizationConfig, device: &Device) -> Self {
        Self {
            weight,
            config,
            device: device.clone(),
            beside: Arc::default(),
        }
    }

    fn tensors(self) -> [Stored; 4] {
        let [d_output, d_input] = self.weight.shape.dims();
        let (bits, group, dtype) = (self.config.bits, self.config.group, self.weight.dtype);
        let (per_word, groups) = (32 / bits, d_input / group);
        let name = self.weight.name.trim_end_matches(".weight").to_owned();
        let part = |part: &str, dtype: DType, shape: [usize; 2], read: Read| {
            let bytes = shape.iter().product::<usize>() * dtype.size();
            Stored::deferred(format!("{name}.{part}"), dtype, shape, None, bytes, read)
        };
        let (words, zeros, scales) = (self.clone(), self.clone(), self);
        let order = move || {
            let order = (0..d_input).map(|input| (input / group) as i32);
            Ok(Bytes::from_elems(order.collect::<Vec<_>>()))
        };
        let order_bytes = d_input * size_of::<i32>();
        let order_name = format!("{name}.g_idx");
        [
            Stored::deferred(order_name, DType::I32, [d_input], None, order_bytes, order),
            part(
                "qweight",
                DType::I32,
                [d_input / per_word, d_output],
                Box::new(move || Ok(Bytes::from_elems(words.round()?))),
            ),
            part(
                "qzeros",
                DType::I32,
                [groups, d_output / per_word],
                Box::new(move || Ok(Bytes::from_elems(zeros.beside()?.zeros.clone()))),
            ),
            part(
                "scales",
                dtype,
                [groups, d_output],
                Box::new(move || Ok(Bytes::from_bytes_vec(scales.beside()?.scales.clone()))),
            ),
        ]
    }

    fn beside(&self) -> Result<&Beside, Error> {
        if self.beside.get().is_none() {
            self.round()?;
        }
        Ok(self.beside.get().expect("rounding sets it"))
    }

    /// The packed weights, `[d_input * bits / 32, d_output]`.
    fn round(&self) -> Result<Vec<i32>, Error> {
        let failed = |problem: String| Error::IoError(problem);
        let (shape, dtype) = (self.weight.shape.clone(), self.weight.dtype);
        let data = TensorData::from_bytes(self.weight.clone().into_bytes()?, shape, dtype);
        let weight = Tensor::<2>::from_data(data, (&self.device, dtype));
        let rounded = QuantizedWeight::new(weight, self.config);
        let rounded = rounded.map_err(|error| failed(error.to_string()))?;
        let scales = rounded.scales().clone().transpose().into_data();
        let words = rounded.words().clone().transpose().into_data();
        let words = words.convert::<i32>().try_to_vec::<i32>();
        let zeros = self.zeros(&rounded).map_err(failed)?;
        let scales = scales.as_bytes().to_vec();
        // Another thread may have been faster.
        let _ = self.beside.set(Beside { scales, zeros });
        words.map_err(|error| failed(error.to_string()))
    }

    /// Zero points of neighbouring outputs in words.
    fn zeros(&self, rounded: &QuantizedWeight) -> Result<Vec<i32>, String> {
        let bits = self.config.bits;
        let [d_output, groups] = rounded.scales().dims();
        let zeros = match rounded.zeros() {
            None => vec![1 << (bits - 1); groups * d_output],
            Some(zeros) => {
                let zeros = zeros.clone().transpose().into_data().convert::<f32>();
                let zeros = zeros.try_to_vec::<f32>();
                let zeros = zeros.map_err(|error| error.to_string())?;
                zeros.into_iter().map(|zero| zero as u32).collect()
            }
        };
        let words = zeros.chunks_exact(32 / bits).map(|zeros| {
            let places = zeros.iter().enumerate();
            places.fold(0, |word, (place, zero)| word | zero << (bits * place))
        });
        Ok(words.map(|word| word as i32).collect())
    }
}

type Read = Box<dyn Fn() -> Result<Bytes, Error> + Send + Sync>;
