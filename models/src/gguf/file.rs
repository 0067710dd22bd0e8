use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use quest_burn_linear::blocks::BlockFormat;

use super::{metadata::Metadata, reader::Reader};
use crate::error::ModelError;

/// Axes of a tensor at most, as in ggml.
const MAX_AXES: u32 = 4;
/// What a description of a tensor takes at least: the lengths of an empty name and shape, type, offset.
const LEAST_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;
/// What a pair of the metadata takes at least: an empty key, a type and a byte.
const LEAST_PAIR_BYTES: u64 = 8 + 4 + 1;
const DEFAULT_ALIGNMENT: usize = 32;

/// One GGUF file: its metadata, and where its tensors lie.
#[derive(Debug)]
pub(super) struct GgufFile {
    pub metadata: Metadata,
    pub tensors: BTreeMap<String, TensorInfo>,
    handle: Arc<Handle>,
}

/// An open file that is read at places.
#[derive(Debug)]
pub(super) struct Handle {
    path: PathBuf,
    file: Mutex<File>,
}

/// A tensor of a file. Its bytes lie within the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorInfo {
    pub format: BlockFormat,
    /// The longest axis first, as in a row-major tensor.
    pub shape: Vec<usize>,
    /// From the beginning of the file.
    offset: u64,
    bytes: usize,
}

impl TensorInfo {
    /// One of `count` equal parts that lie one behind the other along the longest axis.
    pub(super) fn part(&self, index: usize, count: usize) -> Self {
        // Rows are whole blocks, so every part is.
        let bytes = self.bytes / count;
        Self {
            format: self.format,
            shape: self.shape[1..].to_vec(),
            offset: self.offset + (index * bytes) as u64,
            bytes,
        }
    }
}

impl GgufFile {
    /// Reads the head of a file. Every size and place in it is checked against the file's length before
    /// anything of that size is allocated.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        let mut reader = Reader::open(path)?;
        let magic = reader.array::<4>("the name of the format")?;
        if &magic != b"GGUF" {
            let problem = match crate::source::is_lfs_pointer(path)? {
                true => "it is a Git LFS pointer to the weights".into(),
                false => format!("it begins with {:?}", String::from_utf8_lossy(&magic)),
            };
            return Err(reader.garbled(problem));
        }
        let version = reader.u32("the version")?;
        if !matches!(version, 2 | 3) {
            let problem = match version.swap_bytes() {
                2 | 3 => "it is for machines whose numbers are big-endian".into(),
                _ => format!("expected version 2 or 3 of the format, found {version}"),
            };
            return Err(reader.garbled(problem));
        }
        let n_tensors = reader.count(LEAST_TENSOR_BYTES, "tensors")?;
        let n_pairs = reader.count(LEAST_PAIR_BYTES, "pairs of metadata")?;
        let metadata = Metadata::read(path, &mut reader, n_pairs)?;
        let alignment = metadata.size("general.alignment")?;
        let alignment = alignment.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(metadata.invalid(
                "general.alignment",
                format!("expected a power of two, found {alignment}"),
            ));
        }

        let mut described = Vec::new();
        for _ in 0..n_tensors {
            described.push(Described::read(&mut reader)?);
        }
        let start = reader.position().next_multiple_of(alignment as u64);
        let mut tensors = BTreeMap::new();
        for tensor in described {
            let name = tensor.name.clone();
            let tensor = tensor.within(path, &reader, start, alignment as u64)?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(reader.garbled(format!("expected one tensor `{name}`, found two")));
            }
        }
        let file = File::open(path).map_err(|source| ModelError::Read {
            path: path.into(),
            source,
        })?;
        let handle = Handle {
            path: path.into(),
            file: Mutex::new(file),
        };
        Ok(Self {
            metadata,
            tensors,
            handle: Arc::new(handle),
        })
    }

    /// The file, to read tensors from.
    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }
}

impl Handle {
    /// The bytes of a tensor.
    pub(super) fn read(&self, tensor: &TensorInfo) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![0; tensor.bytes];
        let mut file = self.file.lock().unwrap_or_else(|error| error.into_inner());
        file.seek(SeekFrom::Start(tensor.offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| ModelError::Read {
                path: self.path.clone(),
                source,
            })?;
        Ok(bytes)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A tensor as the head describes it.
struct Described {
    name: String,
    /// The shortest step first.
    axes: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl Described {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ModelError> {
        let name = reader.text("the name of a tensor")?;
        let n_axes = reader.u32(&name)?;
        if n_axes > MAX_AXES {
            return Err(reader.garbled(format!(
                "expected at most {MAX_AXES} axes of tensor `{name}`, found {n_axes}"
            )));
        }
        Ok(Self {
            axes: (0..n_axes)
                .map(|_| reader.u64(&name))
                .collect::<Result<_, _>>()?,
            kind: reader.u32(&name)?,
            offset: reader.u64(&name)?,
            name,
        })
    }

    /// The tensor, whose bytes must lie between `start` and the end of the file.
    fn within(
        self,
        path: &Path,
        reader: &Reader<'_>,
        start: u64,
        alignment: u64,
    ) -> Result<TensorInfo, ModelError> {
        let name = &self.name;
        let format = BlockFormat::from_ggml_type(self.kind).ok_or_else(|| {
            let supported = BlockFormat::ALL.iter().map(|format| format.name());
            ModelError::TensorType {
                path: path.into(),
                name: name.clone(),
                found: type_name(self.kind),
                supported: supported.collect::<Vec<_>>().join(", "),
            }
        })?;
        let too_large = || {
            let axes = &self.axes;
            reader.garbled(format!("tensor `{name}` of {axes:?} does not fit the file"))
        };
        let mut shape = Vec::new();
        for axis in self.axes.iter().rev() {
            shape.push(usize::try_from(*axis).map_err(|_| too_large())?);
        }
        let row = shape.last().copied().unwrap_or(1);
        let rows = shape[..shape.len().saturating_sub(1)]
            .iter()
            .try_fold(1usize, |rows, axis| rows.checked_mul(*axis))
            .ok_or_else(too_large)?;
        let row_bytes = format
            .row_bytes(row)
            .map_err(|error| reader.garbled(format!("tensor `{name}`: {error}")))?;
        let bytes = row_bytes.checked_mul(rows).ok_or_else(too_large)?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(reader.garbled(format!(
                "expected tensor `{name}` at a multiple of {alignment}, found {}",
                self.offset
            )));
        }
        let offset = start.checked_add(self.offset).ok_or_else(too_large)?;
        let end = offset.checked_add(bytes as u64).ok_or_else(too_large)?;
        if end > reader.length() {
            return Err(reader.garbled(format!(
                "expected tensor `{name}` to end at byte {end}, found {} bytes",
                reader.length()
            )));
        }
        Ok(TensorInfo {
            format,
            shape,
            offset,
            bytes,
        })
    }
}

/// ggml's name of a type of tensors that is not read here.
fn type_name(kind: u32) -> String {
    let name = match kind {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return format!("number {kind}"),
    };
    name.into()
}
