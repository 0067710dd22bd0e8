use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use burn::tensor::DType;
use quest_burn::{
    attention::RopeError,
    cache::CacheError,
    inference::QuantizationError,
    policy::{PolicyError, PrefillConfigError},
};
use thiserror::Error;

use crate::{activation_sparsity::SparsityError, tokenizer::TokenizerError};

/// Why a checkpoint is not a model that can be run here.
///
/// Messages name the file, and the field or tensor in it; they are one line each.
#[derive(Error, Debug)]
#[non_exhaustive]
pub enum ModelError {
    /// The checkpoint is not there.
    #[error("{}: expected a folder with a model or a GGUF file, found {found}", path.display())]
    Folder {
        /// Where it should be.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A file cannot be read.
    #[error("{}: expected a readable file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is a pointer to the real one.
    #[error("{}: expected the file itself, found a Git LFS pointer to it (`git lfs pull` brings it)", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// A file is too large for what it should be, or has no end.
    #[error("{}: expected a file of less than {most} bytes, found a larger one", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that it may have.
        most: u64,
    },
    /// A file is not text.
    #[error("{}: expected text in UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A folder holds several of what there should be one of.
    #[error("{}: expected one {what}, found {found}", path.display())]
    Several {
        /// The folder.
        path: PathBuf,
        /// What there should be one of.
        what: &'static str,
        /// Their names.
        found: String,
    },
    /// The folder is that of a LoRA adapter.
    #[error(
        "{}: expected a model, found a LoRA adapter for {base}: merge it into that model first \
         (`merge_and_unload` of peft)", path.display()
    )]
    Adapter {
        /// The folder.
        path: PathBuf,
        /// The model that the adapter changes.
        base: String,
    },
    /// A file is not a JSON object.
    #[error("{}: expected a JSON object", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it is.
        source: serde_json::Error,
    },
    /// A field is not there.
    #[error("{}: expected field `{field}`, found none", path.display())]
    MissingField {
        /// The file.
        path: PathBuf,
        /// The field, with those it is nested in.
        field: String,
    },
    /// A field has a value that it cannot have.
    #[error("{}: field `{field}`: {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with those it is nested in.
        field: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// The model needs something that is not implemented.
    #[error("{}: unsupported {what} `{found}`; supported: {supported}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What kind of thing it is.
        what: &'static str,
        /// Its name in the file.
        found: String,
        /// What is implemented instead.
        supported: &'static str,
    },
    /// Channels cannot be skipped as asked.
    #[error(transparent)]
    ActivationSparsity(#[from] SparsityError),
    /// The rotary embedding makes no sense.
    #[error("{}: the rotary embedding cannot be used", path.display())]
    Rope {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RopeError,
    },
    /// There is no file with weights.
    #[error("{}: expected weights in one of {expected}, found {found}", dir.display())]
    NoWeights {
        /// The folder of the checkpoint.
        dir: PathBuf,
        /// The files that were looked for.
        expected: String,
        /// Files that look like weights and are others.
        found: String,
    },
    /// A file that an index lists is not there.
    #[error("{}: expected the file `{shard}` that it lists, found none", index.display())]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file's name in it.
        shard: String,
    },
    /// A file of weights is not what its name says, or not all of it.
    #[error("{}: expected {format} weights, found a truncated or garbled file: {problem}", path.display())]
    Garbled {
        /// The file.
        path: PathBuf,
        /// `safetensors`, `PyTorch` or `GGUF`.
        format: &'static str,
        /// What its reader says.
        problem: String,
    },
    /// A tensor is stored in a way that is not read.
    #[error("{}: unsupported type `{found}` of tensor `{name}`; supported: {supported}", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type's name in the file.
        found: String,
        /// What is read.
        supported: String,
    },
    /// Two files hold the same tensor.
    #[error("{}: tensor `{name}` is in {} as well", path.display(), other.display())]
    DuplicateTensor {
        /// The second file.
        path: PathBuf,
        /// The first file.
        other: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The tensors are not those of the model.
    #[error("{}: the tensors are not those of the model: {mismatch}", dir.display())]
    Mismatch {
        /// The folder of the checkpoint.
        dir: PathBuf,
        /// Every difference.
        mismatch: Box<TensorMismatch>,
    },
    /// Weights cannot be converted to the dtype.
    #[error("weights: expected one of the dtypes F32, F16 and BF16, found {0:?}")]
    DType(DType),
    /// The device cannot compute in the dtype.
    #[error("the device does not support weights in {0:?}")]
    DeviceDType(DType),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The page policy cannot be made as configured.
    #[error("page policy")]
    Policy(#[source] PolicyError),
    /// Prompts cannot be read as configured.
    #[error(transparent)]
    Prefill(PrefillConfigError),
    /// The KV cache cannot be made as configured.
    #[error("KV cache")]
    Cache(#[source] CacheError),
    /// More tokens than the checkpoint is made for.
    #[error("context: the checkpoint is made for at most {most} tokens, found {found}")]
    Context {
        /// The longest context of the checkpoint.
        most: usize,
        /// The context that was asked for.
        found: usize,
    },
    /// The weights are quantised already, and something else is asked for.
    #[error("{}: expected weights in full to {what}, found weights in {bits} bits", dir.display())]
    Quantized {
        /// The folder of the checkpoint.
        dir: PathBuf,
        /// What they should be good for.
        what: &'static str,
        /// Bits of a weight.
        bits: usize,
    },
    /// The order of the inputs of a projection is not theirs.
    #[error(
        "{}: unsupported order of inputs (desc_act) in `{name}`: expected input {input} in group \
         {expected}, found {found}", path.display()
    )]
    InputOrder {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The first input that is not in its place.
        input: usize,
        /// Its group in order.
        expected: usize,
        /// Its group in the file.
        found: i32,
    },
    /// The weights cannot be rounded as asked for.
    #[error(transparent)]
    Quantization(#[from] QuantizationError),
}

/// How the tensors of a checkpoint differ from those that its configuration asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorMismatch {
    /// Tensors that the model has and the checkpoint lacks, with the model's shape.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Tensors that the checkpoint has and the model lacks, with the checkpoint's shape.
    pub unexpected: Vec<(String, Vec<usize>)>,
    /// Tensors of another shape.
    pub misshapen: Vec<MisshapenTensor>,
    /// Tensors that do not hold floating-point numbers.
    pub not_float: Vec<(String, DType)>,
    /// Tensors that do not hold packed weights, 32-bit integers.
    pub not_packed: Vec<(String, DType)>,
}

/// A tensor of another shape than the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MisshapenTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// The model's shape.
    pub expected: Vec<usize>,
    /// The checkpoint's shape.
    pub found: Vec<usize>,
}

impl ModelError {
    pub(crate) fn garbled(path: &Path, format: &'static str, problem: impl Into<String>) -> Self {
        Self::Garbled {
            path: path.into(),
            format,
            problem: problem.into().replace('\n', " "),
        }
    }
}

impl TensorMismatch {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.misshapen.is_empty()
            && self.not_float.is_empty()
            && self.not_packed.is_empty()
    }
}

/// How many tensors differ and the first of each kind, on one line: sizes that are wrong in the
/// configuration concern every tensor of a model.
impl fmt::Display for TensorMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self
            .missing
            .iter()
            .map(|(name, shape)| format!("{name} {shape:?}"));
        let unexpected = self
            .unexpected
            .iter()
            .map(|(name, shape)| format!("{name} {shape:?}"));
        let misshapen = self.misshapen.iter().map(|tensor| {
            let MisshapenTensor {
                name,
                expected,
                found,
            } = tensor;
            format!("{name} (expected {expected:?}, found {found:?})")
        });
        let not_float = self
            .not_float
            .iter()
            .map(|(name, dtype)| format!("{name} ({dtype:?})"));
        let not_packed = self
            .not_packed
            .iter()
            .map(|(name, dtype)| format!("{name} ({dtype:?})"));
        let groups = [
            ("missing", missing.collect::<Vec<_>>()),
            ("unexpected", unexpected.collect()),
            ("of another shape", misshapen.collect()),
            ("not floating-point", not_float.collect()),
            ("not 32-bit integers", not_packed.collect()),
        ];
        let groups = groups.iter().filter(|(_, tensors)| !tensors.is_empty());
        let groups =
            groups.map(|(kind, tensors)| format!("{} {kind}: {}", tensors.len(), first(tensors)));
        f.write_str(&groups.collect::<Vec<_>>().join("; "))
    }
}

/// The first of some names, and how many more there are.
fn first(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
