use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::{
    store::burn_pack::{self, Bytes},
    tensor::{DType, Element, bf16, f16},
};
use quest_burn_linear::blocks::BlockFormat;

use crate::error::ModelError;

/// A tensor of a checkpoint, its bytes not yet read.
#[derive(Clone, Debug)]
pub struct SourceTensor {
    /// Its name in a Hugging Face checkpoint, whatever it is called in this one.
    pub name: String,
    /// Its shape in a Hugging Face checkpoint.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub data: TensorData,
    /// The file that it is in.
    pub path: PathBuf,
    /// What the file is, for messages.
    pub format: &'static str,
}

/// How the values of a [`SourceTensor`] are stored.
#[derive(Clone, Debug)]
pub enum TensorData {
    /// One by one.
    Plain(burn_pack::Tensor),
    /// In the blocks of a GGUF file.
    Blocks(BlockTensor),
}

/// A tensor in the blocks of a GGUF file, its rows in the order of Hugging Face.
#[derive(Clone)]
pub struct BlockTensor {
    /// The format of the blocks.
    pub format: BlockFormat,
    rows: usize,
    row_length: usize,
    read: Arc<Read>,
}

type Read = dyn Fn() -> Result<Vec<u8>, ModelError> + Send + Sync;

impl SourceTensor {
    pub(crate) fn plain(tensor: burn_pack::Tensor, path: &Path, format: &'static str) -> Self {
        Self {
            name: tensor.name.clone(),
            shape: tensor.shape.to_vec(),
            data: TensorData::Plain(tensor),
            path: path.into(),
            format,
        }
    }

    /// The dtype of its values one by one; of blocks, that of the widened values.
    pub fn dtype(&self) -> DType {
        match &self.data {
            TensorData::Plain(tensor) => tensor.dtype,
            TensorData::Blocks(_) => DType::F32,
        }
    }

    /// The element type of values that are stored in f16 or bf16.
    pub fn half(&self) -> Option<DType> {
        match &self.data {
            TensorData::Plain(tensor) => {
                Some(tensor.dtype).filter(|dtype| matches!(dtype, DType::F16 | DType::BF16))
            }
            TensorData::Blocks(blocks) => match blocks.format {
                BlockFormat::F16 => Some(DType::F16),
                BlockFormat::BF16 => Some(DType::BF16),
                _ => None,
            },
        }
    }

    /// Bytes that it takes in the checkpoint.
    pub fn stored_bytes(&self) -> u64 {
        match &self.data {
            TensorData::Plain(tensor) => tensor.byte_len() as u64,
            TensorData::Blocks(blocks) => blocks.stored_bytes(),
        }
    }

    /// The tensor with its values one by one, read when they are asked for: blocks are widened to
    /// `dtype` (F32, F16 or BF16), other values stay as they are.
    pub fn into_plain(self, dtype: DType) -> burn_pack::Tensor {
        match self.data {
            TensorData::Plain(mut tensor) => {
                tensor.name = self.name;
                tensor
            }
            TensorData::Blocks(blocks) => blocks.into_plain(self.name, self.shape, dtype),
        }
    }

    /// A tensor of some of its rows, in an order; a vector's elements count as rows.
    pub(crate) fn with_rows(self, name: String, rows: Vec<usize>) -> Self {
        let stored = self.shape.first().copied().unwrap_or(1).max(1);
        let mut shape = self.shape;
        if let Some(n) = shape.first_mut() {
            *n = rows.len();
        }
        let data = match self.data {
            TensorData::Plain(tensor) => {
                let (dtype, bytes) = (tensor.dtype, tensor.byte_len() / stored * rows.len());
                let read = move || {
                    let stored_bytes = tensor.clone().into_bytes()?;
                    let taken = taken(&stored_bytes, stored, &rows);
                    Ok(aligned(&taken, dtype))
                };
                let (name, shape) = (name.clone(), shape.clone());
                TensorData::Plain(burn_pack::Tensor::deferred(
                    name, dtype, shape, None, bytes, read,
                ))
            }
            TensorData::Blocks(blocks) => {
                let BlockTensor {
                    format, row_length, ..
                } = blocks;
                let n = rows.len();
                let read = move || Ok(taken(&blocks.read()?, stored, &rows));
                TensorData::Blocks(BlockTensor::new(format, n, row_length, read))
            }
        };
        Self {
            name,
            shape,
            data,
            ..self
        }
    }

    /// Some columns of one matrix of a tensor of several, `[matrices, rows, columns]`, as rows.
    pub(crate) fn transposed(
        self,
        name: String,
        matrix: usize,
        [rows, columns]: [usize; 2],
        taken: Range<usize>,
    ) -> Self {
        let shape = vec![taken.len(), rows];
        let stored = self.clone().into_plain(DType::F32);
        let (dtype, size) = (stored.dtype, stored.dtype.size());
        let read = move || {
            let bytes = stored.clone().into_bytes()?;
            let bytes = &bytes[matrix * rows * columns * size..];
            let mut transposed = Vec::with_capacity(taken.len() * rows * size);
            for (column, row) in taken.clone().flat_map(|c| (0..rows).map(move |r| (c, r))) {
                let place = (row * columns + column) * size;
                transposed.extend_from_slice(&bytes[place..place + size]);
            }
            Ok(aligned(&transposed, dtype))
        };
        let bytes = shape.iter().product::<usize>() * size;
        let tensor =
            burn_pack::Tensor::deferred(name.clone(), dtype, shape.clone(), None, bytes, read);
        Self {
            name,
            shape,
            data: TensorData::Plain(tensor),
            ..self
        }
    }

    /// A vector of ones that no file holds, as if it were beside `like`.
    pub(crate) fn ones(name: String, n: usize, like: &Self) -> Self {
        let read = move || Ok(Bytes::from_elems(vec![1f32; n]));
        let (shape, bytes) = (vec![n], n * size_of::<f32>());
        let tensor =
            burn_pack::Tensor::deferred(name.clone(), DType::F32, shape, None, bytes, read);
        Self::plain(tensor, &like.path, like.format)
    }

    /// An error about its content.
    pub fn garbled(&self, problem: impl Into<String>) -> ModelError {
        ModelError::garbled(&self.path, self.format, problem)
    }
}

impl BlockTensor {
    /// Of `rows` rows of `row_length` values, whose bytes `read` gives.
    pub(crate) fn new(
        format: BlockFormat,
        rows: usize,
        row_length: usize,
        read: impl Fn() -> Result<Vec<u8>, ModelError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            format,
            rows,
            row_length,
            read: Arc::new(read),
        }
    }

    /// Bytes of all blocks.
    pub fn stored_bytes(&self) -> u64 {
        let per_block = self.format.weights_per_block();
        let blocks = self.rows as u64 * (self.row_length / per_block) as u64;
        blocks * self.format.bytes_per_block() as u64
    }

    /// Reads the blocks, row after row.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, ModelError> {
        (self.read)()
    }

    fn into_plain(self, name: String, shape: Vec<usize>, dtype: DType) -> burn_pack::Tensor {
        let bytes = self.rows * self.row_length * dtype.size();
        burn_pack::Tensor::deferred(name, dtype, shape, None, bytes, move || {
            let error = |problem: String| burn_pack::Error::IoError(problem);
            let blocks = self.read().map_err(|source| error(source.to_string()))?;
            match dtype {
                DType::F16 => self.widen(&blocks, f16::from_f32),
                DType::BF16 => self.widen(&blocks, bf16::from_f32),
                _ => self.widen(&blocks, |value| value),
            }
            .map_err(error)
        })
    }

    /// Row by row, so that no more than a row is there in f32 beside the result.
    fn widen<E: Element>(&self, blocks: &[u8], of: impl Fn(f32) -> E) -> Result<Bytes, String> {
        let mut widened = Vec::with_capacity(self.rows * self.row_length);
        let mut row = vec![0f32; self.row_length];
        let row_bytes = blocks.len() / self.rows.max(1);
        for blocks in blocks.chunks_exact(row_bytes.max(1)) {
            let result = self.format.dequantize(blocks, &mut row);
            result.map_err(|error| error.to_string())?;
            widened.extend(row.iter().map(|value| of(*value)));
        }
        Ok(Bytes::from_elems(widened))
    }
}

impl fmt::Debug for BlockTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockTensor")
            .field("format", &self.format)
            .field("rows", &self.rows)
            .field("row_length", &self.row_length)
            .finish_non_exhaustive()
    }
}

/// Some of `n` rows.
fn taken(bytes: &[u8], n: usize, rows: &[usize]) -> Vec<u8> {
    let row = bytes.len() / n;
    let rows = rows
        .iter()
        .map(|index| &bytes[index * row..(index + 1) * row]);
    rows.collect::<Vec<_>>().concat()
}

/// Bytes at an address that suits the dtype.
pub(crate) fn aligned(bytes: &[u8], dtype: DType) -> Bytes {
    match dtype.size() {
        8 => {
            let (values, _) = bytes.as_chunks::<8>();
            Bytes::from_elems(values.iter().map(|v| u64::from_ne_bytes(*v)).collect())
        }
        4 => {
            let (values, _) = bytes.as_chunks::<4>();
            Bytes::from_elems(values.iter().map(|v| u32::from_ne_bytes(*v)).collect())
        }
        2 => {
            let (values, _) = bytes.as_chunks::<2>();
            Bytes::from_elems(values.iter().map(|v| u16::from_ne_bytes(*v)).collect())
        }
        _ => Bytes::from_elems(bytes.to_vec()),
    }
}
