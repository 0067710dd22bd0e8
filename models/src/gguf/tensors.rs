use std::sync::Arc;

use burn::{store::burn_pack, tensor::DType};
use quest_burn_linear::blocks::{BlockError, BlockFormat};

use super::{
    GgufCheckpoint, NAME, config,
    file::{GgufFile, TensorInfo},
    names::{self, Name},
};
use crate::{
    architectures::GgufFamily,
    config::ModelConfig,
    error::ModelError,
    source::{BlockTensor, SourceTensor, TensorData, aligned},
};

/// More experts than a layer of any model has.
const MAX_EXPERTS: usize = 1 << 12;

/// The tensors of all files.
pub(super) fn all(checkpoint: &GgufCheckpoint) -> Result<Vec<SourceTensor>, ModelError> {
    let (_, family) = config::architecture(checkpoint)?;
    let changes = Changes::of(&config::read(checkpoint)?, family);
    let mut tensors = Vec::new();
    for file in &checkpoint.files {
        for (name, info) in &file.tensors {
            let change = changes.of_tensor(name);
            match names::hugging_face(name, family) {
                Name::Configuration => {}
                Name::One(hugging_face) => tensors.push(tensor(file, info, hugging_face, change)),
                Name::OfExperts(before, behind) => {
                    let [count, _, _] = info.shape[..] else {
                        let (expected, found) = ("the experts' matrices", &info.shape);
                        let problem = format!("expected {expected} in `{name}`, found {found:?}");
                        return Err(ModelError::garbled(file.handle().path(), NAME, problem));
                    };
                    // Any others are missed or not expected where the model is loaded.
                    let experts = (0..count.min(MAX_EXPERTS)).map(|expert| {
                        let name = format!("{before}{expert}{behind}");
                        tensor(file, &info.part(expert, count), name, change)
                    });
                    tensors.extend(experts);
                }
            }
        }
    }
    Ok(tensors)
}

/// What llama.cpp's converter has done to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    /// The rows of so many heads are in another order.
    PermutedHeads(usize),
    /// One was added.
    OneMore,
}

/// What has been done to which tensors.
struct Changes {
    is_permuted: bool,
    n_heads: usize,
    n_kv_heads: usize,
    /// Whether one was added to the weights of norms.
    norms_one_more: bool,
}

impl Changes {
    fn of(config: &ModelConfig, family: &GgufFamily) -> Self {
        Self {
            is_permuted: family.is_permuted,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            norms_one_more: config.blocks.norms_less_one,
        }
    }

    fn of_tensor(&self, name: &str) -> Change {
        let part = name.rsplit_once('.').map_or(name, |(part, _)| part);
        let part = part.rsplit_once('.').map_or(part, |(_, part)| part);
        match part {
            "attn_q" if self.is_permuted => Change::PermutedHeads(self.n_heads),
            "attn_k" if self.is_permuted => Change::PermutedHeads(self.n_kv_heads),
            norm if self.norms_one_more && norm.ends_with("_norm") => Change::OneMore,
            _ => Change::Nothing,
        }
    }
}

fn tensor(file: &GgufFile, info: &TensorInfo, name: String, change: Change) -> SourceTensor {
    let handle = Arc::clone(file.handle());
    let path = handle.path().to_owned();
    let shape = info.shape.clone();
    // A vector of biases is permuted by elements, a matrix by rows.
    let (rows, row_length) = match shape[..] {
        [] => (1, 1),
        [n] if matches!(change, Change::PermutedHeads(_)) => (n, 1),
        [n] => (1, n),
        [.., n] => (shape[..shape.len() - 1].iter().product(), n),
    };
    let info = info.clone();
    let stored = info.format;
    let read = move || {
        let bytes = handle.read(&info)?;
        match change {
            Change::Nothing => Ok(bytes),
            Change::PermutedHeads(heads) => Ok(unpermuted(&bytes, rows, heads)),
            Change::OneMore => one_less(&bytes, stored, rows * row_length)
                .map_err(|error| ModelError::garbled(handle.path(), NAME, error.to_string())),
        }
    };
    let format = match change {
        Change::OneMore => BlockFormat::F32,
        _ => stored,
    };
    let plain = match format {
        BlockFormat::F32 => Some(DType::F32),
        BlockFormat::F16 => Some(DType::F16),
        BlockFormat::BF16 => Some(DType::BF16),
        _ => None,
    };
    let data = match plain {
        Some(dtype) => {
            let bytes = shape.iter().product::<usize>() * dtype.size();
            let read = move || {
                let bytes = read()
                    .map_err(|error: ModelError| burn_pack::Error::IoError(error.to_string()))?;
                Ok(aligned(&bytes, dtype))
            };
            TensorData::Plain(burn_pack::Tensor::deferred(
                name.clone(),
                dtype,
                shape.clone(),
                None,
                bytes,
                read,
            ))
        }
        None => TensorData::Blocks(BlockTensor::new(format, rows, row_length, read)),
    };
    SourceTensor {
        name,
        shape,
        data,
        path,
        format: NAME,
    }
}

/// Weights of a norm as a folder has them, in single precision.
fn one_less(bytes: &[u8], format: BlockFormat, n: usize) -> Result<Vec<u8>, BlockError> {
    let mut values = vec![0.0; n];
    format.dequantize(bytes, &mut values)?;
    let values = values
        .into_iter()
        .flat_map(|value| (value - 1.0).to_ne_bytes());
    Ok(values.collect())
}

/// Rows in Hugging Face's order. llama.cpp rotates neighbouring channels of a head, Hugging Face those
/// that are half a head apart, so the converter has interleaved the rows of a head's two halves.
fn unpermuted(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let row = bytes.len() / rows.max(1);
    let per_head = rows / heads.max(1);
    let half = per_head / 2;
    let mut ordered = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for (side, pair) in (0..2).flat_map(|side| (0..half).map(move |pair| (side, pair))) {
            let stored = head * per_head + 2 * pair + side;
            ordered.extend_from_slice(&bytes[stored * row..(stored + 1) * row]);
        }
    }
    // Nothing but whole heads of an even size was permuted; others are refused by their shape.
    ordered.extend_from_slice(&bytes[ordered.len()..]);
    ordered
}
