//! GGUF files, written byte by byte as ggml lays them out, and the same weights as a folder.

mod model;

use std::{fs, path::Path};

pub use model::{GgufSpec, Pair, VOCABULARY};

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Meta {
    /// A 32-bit integer without a sign.
    U32(u32),
    /// A 32-bit float.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// Several 32-bit integers.
    I32s(Vec<i32>),
    /// Several 32-bit floats.
    F32s(Vec<f32>),
}

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct GgufTensor {
    /// ggml's name.
    pub name: String,
    /// Longest step first, as in a folder; the file has it the other way round.
    pub shape: Vec<usize>,
    /// ggml's number of the type.
    pub kind: u32,
    /// The blocks.
    pub bytes: Vec<u8>,
}

/// What a GGUF file holds.
#[derive(Clone, Debug, Default)]
pub struct Gguf {
    /// The metadata.
    pub pairs: Vec<(String, Meta)>,
    /// The tensors.
    pub tensors: Vec<GgufTensor>,
}

const ALIGNMENT: usize = 32;

impl Gguf {
    /// Adds a pair to the metadata, or changes the one that has the key.
    pub fn set(&mut self, key: &str, value: Meta) {
        self.pairs.retain(|(other, _)| other != key);
        self.pairs.push((key.into(), value));
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            text(key, &mut file);
            meta(value, &mut file);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&tensor.name, &mut file);
            file.extend((tensor.shape.len() as u32).to_le_bytes());
            for axis in tensor.shape.iter().rev() {
                file.extend((*axis as u64).to_le_bytes());
            }
            file.extend(tensor.kind.to_le_bytes());
            file.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
            file.extend(&tensor.bytes);
        }
        file
    }

    /// Writes the file.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).unwrap_or_else(|error| panic!("{error}"));
    }
}

fn text(text: &str, file: &mut Vec<u8>) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn meta(value: &Meta, file: &mut Vec<u8>) {
    let array = |kind: u32, n: usize, file: &mut Vec<u8>| {
        file.extend(9u32.to_le_bytes());
        file.extend(kind.to_le_bytes());
        file.extend((n as u64).to_le_bytes());
    };
    match value {
        Meta::U32(number) => {
            file.extend(4u32.to_le_bytes());
            file.extend(number.to_le_bytes());
        }
        Meta::F32(number) => {
            file.extend(6u32.to_le_bytes());
            file.extend(number.to_le_bytes());
        }
        Meta::Bool(value) => {
            file.extend(7u32.to_le_bytes());
            file.push((*value).into());
        }
        Meta::Text(value) => {
            file.extend(8u32.to_le_bytes());
            text(value, file);
        }
        Meta::Texts(values) => {
            array(8, values.len(), file);
            values.iter().for_each(|value| text(value, file));
        }
        Meta::I32s(values) => {
            array(5, values.len(), file);
            values
                .iter()
                .for_each(|value| file.extend(value.to_le_bytes()));
        }
        Meta::F32s(values) => {
            array(6, values.len(), file);
            values
                .iter()
                .for_each(|value| file.extend(value.to_le_bytes()));
        }
    }
}
