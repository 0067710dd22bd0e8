//! Layers of GPTQ and AWQ checkpoints: their words are put in order on the host, a word per eight or
//! four neighbouring inputs of an output channel, which is how the kernels read them.

use std::collections::HashMap;

use burn::{
    module::Param,
    store::burn_pack,
    tensor::{DType, Device, Tensor, TensorData},
};
use quest_burn_linear::{InferenceLinear, QuantizedWeight};

use super::{
    checkpoint::Files,
    projections::{Named, layer_with, projections},
};
use crate::{
    config::{PackedLayout, StoredQuantization},
    error::ModelError,
    inference::InferenceLayer,
    model::DecoderLayer,
};

/// Suffixes of the tensors that stand for a projection's weights.
const PARTS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];

/// The place in its word of each of eight neighbouring output channels.
const AWQ_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The packed tensors of a layer, which are not parameters of its trainable form.
pub(super) struct PackedTensors {
    tensors: HashMap<String, burn_pack::Tensor>,
    files: Files,
    quantization: StoredQuantization,
    dtype: DType,
}

impl PackedTensors {
    /// Takes a layer's packed tensors out of all of its tensors, and biases that the model does not
    /// have: they must be zero.
    pub(super) fn take(
        tensors: &mut Vec<burn_pack::Tensor>,
        layer: &DecoderLayer,
        files: Files,
        quantization: StoredQuantization,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let biased = projections(layer).into_iter();
        let biased = biased.map(|(name, linear)| (name, linear.bias.is_some()));
        let biased = biased.collect::<Vec<_>>();
        let mut packed = HashMap::new();
        let mut others = Vec::new();
        for tensor in tensors.drain(..) {
            let (projection, part) = tensor.name.rsplit_once('.').unwrap_or_default();
            if PARTS.contains(&part) {
                packed.insert(tensor.name.clone(), tensor);
            } else if part == "bias" && biased.contains(&(projection.to_owned(), false)) {
                let name = tensor.name.clone();
                if floats(&files, tensor)?.iter().any(|&bias| bias != 0.0) {
                    let problem = format!(
                        "expected no bias, or zeros, in `{name}` of a model without, found others"
                    );
                    return Err(files.garbled(&name, problem));
                }
            } else {
                others.push(tensor);
            }
        }
        *tensors = others;
        Ok(Self {
            tensors: packed,
            files,
            quantization,
            dtype,
        })
    }

    /// The layer in the form for inference. Of its parameters those that are no projections' weights
    /// have been loaded.
    pub(super) fn layer(
        mut self,
        layer: DecoderLayer,
        device: &Device,
    ) -> Result<InferenceLayer, ModelError> {
        layer_with(layer, |projections| {
            if let Some(full) = self.full(projections)? {
                return Ok(full);
            }
            let mut merged = Rows::default();
            let mut biases = Vec::new();
            for (name, linear) in projections {
                let [d_input, d_output] = linear.weight.shape().dims::<2>();
                merged.append(self.rows(name, d_output, d_input)?);
                biases.extend(linear.bias.as_ref().map(Param::val));
            }
            let bias = (!biases.is_empty()).then(|| Tensor::cat(biases, 0));
            let weight = merged.into_weight(self.quantization, device, self.dtype)?;
            Ok(InferenceLinear::quantized(weight, bias))
        })
    }

    /// Projections that are merged, where their weights are in full although those of other layers are
    /// not (`modules_to_not_convert`).
    fn full(&self, projections: &[Named<'_>]) -> Result<Option<InferenceLinear>, ModelError> {
        let is_packed = |name: &str| self.tensors.contains_key(&format!("{name}.qweight"));
        let names = projections.iter().map(|(name, _)| name.as_str());
        let names = names.collect::<Vec<_>>();
        let Some(packed) = names.iter().find(|name| is_packed(name)) else {
            let chosen = projections.iter().map(|(_, linear)| (*linear).clone());
            return Ok(Some(InferenceLinear::merge(chosen)));
        };
        match names.iter().find(|name| !is_packed(name)) {
            None => Ok(None),
            Some(full) => {
                let packed = format!("{packed}.qweight");
                let problem = format!(
                    "expected all of {} to be quantised or none (modules_to_not_convert), found {} \
                     in full",
                    names.join(", "),
                    self.files.name(full)
                );
                Err(self.files.garbled(&packed, problem))
            }
        }
    }

    /// The packed weights of a projection.
    fn rows(&mut self, name: &str, d_output: usize, d_input: usize) -> Result<Rows, ModelError> {
        let quantization = self.quantization;
        self.check_order(&format!("{name}.g_idx"))?;
        let qweight = self.words(&format!("{name}.qweight"))?;
        let qzeros = self.words(&format!("{name}.qzeros"))?;
        let scales = self.take_part(&format!("{name}.scales"))?;
        let scales = floats(&self.files, scales)?;

        let words = match quantization.layout {
            PackedLayout::Gptq | PackedLayout::GptqV2 => transposed(&qweight, d_output),
            PackedLayout::Awq => repacked(&qweight, d_output),
        };
        // The stored group of each group.
        let group = quantization.config(d_input)?.group;
        let stored = quantization.group_size.unwrap_or(d_input);
        let stored_groups = (0..d_input).step_by(group).map(|first| first / stored);
        let stored_groups = stored_groups.collect::<Vec<_>>();
        let of_groups = |value: &dyn Fn(usize, usize) -> f32| {
            let outputs = (0..d_output).flat_map(|output| {
                let groups = stored_groups.iter();
                groups.map(move |&group| value(group, output))
            });
            outputs.collect::<Vec<_>>()
        };
        Ok(Rows {
            d_output,
            d_input,
            words,
            scales: of_groups(&|group, output| scales[group * d_output + output]),
            zeros: of_groups(&|group, output| {
                zero_point(&qzeros, group, output, d_output, quantization) as f32
            }),
        })
    }

    /// Refuses inputs that belong to other groups than their neighbours.
    fn check_order(&mut self, name: &str) -> Result<(), ModelError> {
        if !self.tensors.contains_key(name) {
            return Ok(());
        }
        let groups = self.words(name)?;
        // Some writers leave it empty where there is no order.
        if groups.iter().all(|group| *group == 0) {
            return Ok(());
        }
        let size = self.quantization.group_size.unwrap_or(groups.len());
        let n_groups = groups.len().div_ceil(size.max(1));
        let full_name = self.files.name(name);
        if let Some(wild) = groups.iter().find(|group| **group as usize >= n_groups) {
            let found = *wild as i32;
            let problem =
                format!("expected groups below {n_groups} in `{full_name}`, found {found}");
            return Err(self.files.garbled(name, problem));
        }
        let is_elsewhere = |&(input, group): &(usize, &u32)| input / size != *group as usize;
        match groups.iter().enumerate().find(is_elsewhere) {
            None => Ok(()),
            Some((input, &found)) => Err(ModelError::InputOrder {
                path: self.files.path(name).into(),
                name: full_name,
                input,
                expected: input / size,
                found: found as i32,
            }),
        }
    }

    fn take_part(&mut self, name: &str) -> Result<burn_pack::Tensor, ModelError> {
        let tensor = self.tensors.remove(name);
        Ok(tensor.expect("the checkpoint was compared with the model"))
    }

    fn words(&mut self, name: &str) -> Result<Vec<u32>, ModelError> {
        let bytes = self.take_part(name)?.into_bytes();
        let bytes = bytes.map_err(|error| self.files.garbled(name, error.to_string()))?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }
}

fn floats(files: &Files, tensor: burn_pack::Tensor) -> Result<Vec<f32>, ModelError> {
    let name = tensor.name.clone();
    let garbled = |problem: String| files.garbled(&name, problem);
    let (_, dtype, shape, _, bytes) = tensor
        .into_parts()
        .map_err(|error| garbled(error.to_string()))?;
    let data = TensorData::from_bytes(bytes, shape, dtype).convert::<f32>();
    data.try_to_vec()
        .map_err(|error| garbled(error.to_string()))
}

/// Output channels with packed weights, one after the other.
#[derive(Default)]
struct Rows {
    d_output: usize,
    d_input: usize,
    words: Vec<u32>,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl Rows {
    fn append(&mut self, other: Self) {
        self.d_output += other.d_output;
        self.d_input = other.d_input;
        self.words.extend(other.words);
        self.scales.extend(other.scales);
        self.zeros.extend(other.zeros);
    }

    fn into_weight(
        self,
        quantization: StoredQuantization,
        device: &Device,
        dtype: DType,
    ) -> Result<QuantizedWeight, ModelError> {
        let config = quantization.config(self.d_input)?;
        let n = self.d_output;
        let words = self.words.into_iter().map(|word| word as i32);
        let words = words.collect::<Vec<_>>();
        let shape = [n, words.len() / n];
        let words = Tensor::from_data(TensorData::new(words, shape), (device, DType::I32));
        let per_group = |values: Vec<f32>| {
            let shape = [n, values.len() / n];
            Tensor::<2>::from_data(TensorData::new(values, shape), (device, dtype))
        };
        let (scales, zeros) = (per_group(self.scales), per_group(self.zeros));
        Ok(QuantizedWeight::from_packed(
            config,
            words,
            scales,
            Some(zeros),
        )?)
    }
}

/// `[n, d_output]` as `[d_output, n]`: words of GPTQ hold neighbouring inputs already.
fn transposed(words: &[u32], d_output: usize) -> Vec<u32> {
    let outputs = 0..d_output;
    outputs
        .flat_map(|output| words[output..].iter().step_by(d_output).copied())
        .collect()
}

/// Words of AWQ, `[d_input, d_output / 8]`, as `[d_output, d_input / 8]` with neighbouring inputs in a
/// word.
fn repacked(words: &[u32], d_output: usize) -> Vec<u32> {
    let columns = d_output / AWQ_PLACES.len();
    let mut repacked = Vec::with_capacity(words.len());
    for column in 0..columns {
        for place in AWQ_PLACES {
            let weights = words[column..].iter().step_by(columns);
            let weights = weights.map(|word| word >> (4 * place) & 0xf);
            let weights = weights.collect::<Vec<_>>();
            let (inputs, _) = weights.as_chunks::<8>();
            repacked.extend(inputs.iter().map(|weights| {
                let shifted = weights.iter().enumerate();
                shifted.fold(0, |word, (i, weight)| word | weight << (4 * i))
            }));
        }
    }
    repacked
}

/// A zero point of `[groups, d_output]` packed ones.
fn zero_point(
    words: &[u32],
    group: usize,
    output: usize,
    d_output: usize,
    quantization: StoredQuantization,
) -> u32 {
    let per_word = quantization.per_word();
    let mask = (1 << quantization.bits) - 1;
    let word = words[group * (d_output / per_word) + output / per_word];
    let place = match quantization.layout {
        PackedLayout::Gptq | PackedLayout::GptqV2 => output % per_word,
        PackedLayout::Awq => AWQ_PLACES[output % per_word],
    };
    let stored = word >> (quantization.bits * place) & mask;
    match quantization.layout {
        // Stored less one, around the corner where it is zero.
        PackedLayout::Gptq => (stored + 1) & mask,
        PackedLayout::GptqV2 | PackedLayout::Awq => stored,
    }
}
