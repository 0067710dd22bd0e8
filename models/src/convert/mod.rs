//! Checkpoints in another form: any [source](crate::source) becomes a folder with its configuration, tokenizer
//! and weights.
//!
//! Tensors are read one by one while they are written. Without a dtype their values stay as they are: what
//! is read back is the same to the last bit. Blocks of GGUF files have no form in these folders; they are
//! widened, in f32 without loss.

mod burnpack;
mod error;
mod progress;
mod rounded;
mod safetensors;
mod tensors;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use burn::{
    store::burn_pack::Tensor,
    tensor::{DType, Device},
};
use quest_burn::inference::WeightFormat;
use serde::Serialize;
use serde_json::{Map, Value};

pub use error::ConvertError;

use crate::{
    config::ModelConfig,
    source::{CheckpointSource, Companion},
};
use progress::Progress;

/// What weights are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// `model.safetensors`, or several of them with an index, as transformers reads them.
    #[default]
    Safetensors,
    /// `model.bpk`, Burn's own format.
    Burnpack,
}

/// How a checkpoint is written.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// What weights are written as.
    pub target: Target,
    /// The dtype of the weights; each tensor's own where there is none.
    pub dtype: Option<DType>,
    /// The form of the weights of the layers' projections: in few bits they are written as GPTQ stores them.
    pub weights: WeightFormat,
    /// Where weights are rounded.
    pub device: Device,
    /// Bytes of tensors that a safetensors file holds at most, unless a single tensor has more.
    pub shard_bytes: u64,
}

impl Default for Conversion {
    /// As transformers writes checkpoints.
    fn default() -> Self {
        Self {
            target: Target::default(),
            dtype: None,
            weights: WeightFormat::Full,
            device: Device::default(),
            shard_bytes: 5_000_000_000,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// Files, by their names in the folder.
    pub files: Vec<PathBuf>,
    /// Tensors.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
}

/// Bytes of tensors that are written, of all; the answer says whether to go on.
pub type Report = dyn Fn(u64, u64) -> ControlFlow<()> + Send + Sync;

/// Writes a checkpoint into a folder that is there and empty. `report` is asked before every tensor.
///
/// # Errors
///
/// When the checkpoint is not of a model that is supported or cannot be read, when quantised weights are
/// to be cast or rounded, or experts or merged projections to be rounded, when a file cannot be written, and when `report` says to stop. What was written until
/// then stays.
pub fn convert(
    source: &dyn CheckpointSource,
    folder: &Path,
    conversion: &Conversion,
    report: Box<Report>,
) -> Result<Converted, ConvertError> {
    let config = source.config()?;
    let format = conversion.weights;
    if let Some(quantization) = config.quantization
        && (conversion.dtype.is_some() || format != WeightFormat::Full)
    {
        return Err(ConvertError::Quantized {
            path: source.path().into(),
            bits: quantization.bits,
        });
    }
    let of = match &config.blocks {
        blocks if blocks.experts.is_some() => Some("experts"),
        blocks if blocks.merged_projections => Some("merged projections"),
        _ => None,
    };
    if let Some(of) = of.filter(|_| format != WeightFormat::Full) {
        return Err(ConvertError::Unrounded {
            path: source.path().into(),
            format: format.name(),
            of,
        });
    }
    let mut files = Vec::new();
    let mut tensors = tensors::all(source, conversion.dtype)?;
    let mut companions = companions(source, &config, conversion.dtype, &tensors)?;
    if let Some(rounded) = rounded::round(tensors.clone(), format, &conversion.device)? {
        tensors = rounded.tensors;
        set_fields(&mut companions, |fields| {
            fields.insert("quantization_config".into(), rounded.config.clone());
        });
    }
    for companion in companions {
        let path = folder.join(&companion.name);
        let parent = path.parent().unwrap_or(folder);
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, companion.bytes));
        written.map_err(|source| ConvertError::Write { path, source })?;
        files.push(PathBuf::from(companion.name));
    }
    let (n, tensor_bytes) = (tensors.len(), tensors::bytes(&tensors));
    let progress = Progress::new(tensor_bytes, report);
    let tensors = progress.watch(tensors);
    let written = match conversion.target {
        Target::Safetensors => safetensors::write(folder, tensors, conversion.shard_bytes),
        Target::Burnpack => burnpack::write(folder, tensors),
    };
    // Who stops a writer does so by an error in the midst of it.
    if progress.is_stopped() {
        return Err(ConvertError::Stopped);
    }
    files.extend(written?);
    Ok(Converted {
        files,
        tensors: n,
        tensor_bytes,
    })
}

/// The files beside the weights, of which the configuration names the dtype that the weights have now.
fn companions(
    source: &dyn CheckpointSource,
    config: &ModelConfig,
    dtype: Option<DType>,
    tensors: &[Tensor],
) -> Result<Vec<Companion>, ConvertError> {
    let mut companions = source.companions()?;
    // Widened blocks have a dtype that the checkpoint does not name.
    let dtype = dtype.or_else(|| {
        if config.dtype.is_some() || config.quantization.is_some() {
            return None;
        }
        let name = "model.layers.0.self_attn.q_proj.weight";
        let found = tensors.iter().find(|tensor| tensor.name == name)?;
        found.dtype.is_float().then_some(found.dtype)
    });
    let Some(dtype) = dtype else {
        return Ok(companions);
    };
    set_fields(&mut companions, |fields| name_dtype(fields, dtype));
    Ok(companions)
}

/// Changes fields of the configuration; a file in which nothing changes stays as it is.
fn set_fields(companions: &mut [Companion], set: impl Fn(&mut Map<String, Value>)) {
    for companion in companions {
        if companion.name == ModelConfig::FILE
            && let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(&companion.bytes)
        {
            let before = fields.clone();
            set(&mut fields);
            if fields != before {
                *companion = Companion::json(ModelConfig::FILE, &fields);
            }
        }
    }
}

/// Names the dtype in the field that is there, also in that of an inner configuration.
fn name_dtype(fields: &mut Map<String, Value>, dtype: DType) {
    const OLDER: &str = "torch_dtype";
    const NEWER: &str = "dtype";
    let name = match dtype {
        DType::F64 => "float64",
        DType::F32 => "float32",
        DType::F16 => "float16",
        _ => "bfloat16",
    };
    let field = if fields.contains_key(NEWER) {
        NEWER
    } else {
        OLDER
    };
    fields.insert(field.into(), name.into());
    if let Some(Value::Object(inner)) = fields.get_mut("text_config") {
        for field in [NEWER, OLDER] {
            if inner.contains_key(field) {
                inner.insert(field.into(), name.into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
