//! Checkpoints written byte by byte, as Hugging Face and PyTorch lay them out.

use std::{collections::BTreeMap, fs, path::Path};

use burn::tensor::{DType, TensorData, bf16, f16};
use serde_json::json;

/// A tensor of a checkpoint; its values are exact in f16 and bf16.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
    pub dtype: DType,
}

pub(super) type Tensors = BTreeMap<String, Stored>;

impl Stored {
    /// Small values that differ from place to place and from tensor to tensor.
    pub(super) fn new(shape: &[usize], seed: usize) -> Self {
        let len = shape.iter().product::<usize>();
        let values = (0..len).map(|i| ((i * 37 + seed * 11) % 127) as f32 / 64.0 - 1.0);
        Self {
            shape: shape.to_vec(),
            values: values.collect(),
            dtype: DType::F32,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let values = self.values.iter();
        match self.dtype {
            DType::F64 => values.flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
            DType::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
            DType::BF16 => values
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            DType::I64 => values.flat_map(|v| (*v as i64).to_le_bytes()).collect(),
            other => panic!("no test stores {other:?}"),
        }
    }

    pub(super) fn data(&self) -> TensorData {
        TensorData::new(self.values.clone(), self.shape.clone())
    }
}

pub(super) fn write_safetensors(path: &Path, tensors: &Tensors) {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend(tensor.bytes());
        let dtype = match tensor.dtype {
            DType::BF16 => "BF16".into(),
            other => format!("{other:?}"),
        };
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] }),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(data);
    fs::write(path, file).unwrap();
}

/// As `torch.save(state_dict)`: a ZIP archive of stored entries, `data.pkl` and one per storage.
pub(super) fn write_pytorch(path: &Path, tensors: &Tensors) {
    let mut entries = vec![("archive/data.pkl".to_string(), state_dict_pickle(tensors))];
    for (key, tensor) in tensors.values().enumerate() {
        entries.push((format!("archive/data/{key}"), tensor.bytes()));
    }
    entries.push(("archive/version".into(), b"3\n".to_vec()));
    fs::write(path, zip(&entries)).unwrap();
}

/// Protocol 2, with the opcodes that Python's pickler emits for an `OrderedDict` of tensors.
fn state_dict_pickle(tensors: &Tensors) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    fn int(out: &mut Vec<u8>, value: usize) {
        out.push(b'J');
        out.extend((value as u32).to_le_bytes());
    }
    fn ints(out: &mut Vec<u8>, values: &[usize]) {
        out.push(b'(');
        values.iter().for_each(|value| int(out, *value));
        out.push(b't');
    }
    let mut out = b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec();
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        let storage = match tensor.dtype {
            DType::F64 => "DoubleStorage",
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            other => panic!("no test pickles {other:?}"),
        };
        let strides = (1..=tensor.shape.len()).map(|i| tensor.shape[i..].iter().product());
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}\n").as_bytes());
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        int(&mut out, tensor.values.len());
        out.extend(b"tQ");
        int(&mut out, 0);
        ints(&mut out, &tensor.shape);
        ints(&mut out, &strides.collect::<Vec<_>>());
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = file.len() as u32;
        // Version, flags, stored, time and date; then checksum, sizes and the name's length.
        let mut common = [20u16, 0, 0, 0, 0x21].map(u16::to_le_bytes).concat();
        let size = data.len() as u32;
        common.extend([crc32(data), size, size].map(u32::to_le_bytes).concat());
        common.extend([name.len() as u16, 0].map(u16::to_le_bytes).concat());

        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(data);

        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0u8; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (file.len() as u32, entries.len() as u16);
    let size = directory.len() as u32;
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].map(u16::to_le_bytes).concat());
    file.extend([size, start].map(u32::to_le_bytes).concat());
    file.extend([0u8; 2]);
    file
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
        })
    })
}
