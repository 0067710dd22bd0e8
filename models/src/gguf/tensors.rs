use std::sync::Arc;

use burn::{
    store::burn_pack::{self, Bytes},
    tensor::DType,
};
use quest_burn_linear::blocks::BlockFormat;

use super::{
    GgufCheckpoint, NAME, config,
    file::{GgufFile, TensorInfo},
    names,
};
use crate::{
    error::ModelError,
    source::{BlockTensor, SourceTensor, TensorData},
};

/// The tensors of all files.
pub fn all(checkpoint: &GgufCheckpoint) -> Result<Vec<SourceTensor>, ModelError> {
    let heads = Heads::read(checkpoint)?;
    let mut tensors = Vec::new();
    for file in &checkpoint.files {
        for (name, info) in &file.tensors {
            if let Some(hugging_face) = names::hugging_face(name) {
                tensors.push(tensor(file, info, hugging_face, heads.of(name)));
            }
        }
    }
    Ok(tensors)
}

/// Heads of queries and keys, whose rows llama.cpp puts in another order for some architectures.
struct Heads {
    is_permuted: bool,
    n_heads: usize,
    n_kv_heads: usize,
}

impl Heads {
    fn read(checkpoint: &GgufCheckpoint) -> Result<Self, ModelError> {
        let (n_heads, n_kv_heads) = config::heads(checkpoint)?;
        Ok(Self {
            is_permuted: config::architecture(checkpoint)?.1.is_permuted,
            n_heads,
            n_kv_heads,
        })
    }

    /// The heads among which the rows of a tensor were permuted.
    fn of(&self, name: &str) -> Option<usize> {
        let (part, _) = name.rsplit_once('.')?;
        match part.rsplit_once('.')?.1 {
            "attn_q" if self.is_permuted => Some(self.n_heads),
            "attn_k" if self.is_permuted => Some(self.n_kv_heads),
            _ => None,
        }
    }
}

fn tensor(file: &GgufFile, info: &TensorInfo, name: String, heads: Option<usize>) -> SourceTensor {
    let handle = Arc::clone(file.handle());
    let path = handle.path().to_owned();
    let shape = info.shape.clone();
    // A vector of biases is permuted by elements, a matrix by rows.
    let (rows, row_length) = match shape[..] {
        [] => (1, 1),
        [n] if heads.is_some() => (n, 1),
        [n] => (1, n),
        [.., n] => (shape[..shape.len() - 1].iter().product(), n),
    };
    let info = info.clone();
    let format = info.format;
    let read = move || {
        let bytes = handle.read(&info)?;
        Ok(match heads {
            Some(heads) => unpermuted(&bytes, rows, heads),
            None => bytes,
        })
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

/// Bytes at an address that suits the dtype.
fn aligned(bytes: &[u8], dtype: DType) -> Bytes {
    match dtype {
        DType::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            Bytes::from_elems(values.iter().map(|v| u32::from_ne_bytes(*v)).collect())
        }
        _ => {
            let (values, _) = bytes.as_chunks::<2>();
            Bytes::from_elems(values.iter().map(|v| u16::from_ne_bytes(*v)).collect())
        }
    }
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
