use std::{
    borrow::Cow,
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{store::burn_pack::Tensor, tensor::DType};
use safetensors::{Dtype, View, serialize_to_file};
use serde_json::json;

use super::ConvertError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Writes one file, or several with an index where the tensors take more than `shard_bytes`.
pub(super) fn write(
    folder: &Path,
    tensors: Vec<Tensor>,
    shard_bytes: u64,
) -> Result<Vec<PathBuf>, ConvertError> {
    let mut shards = Vec::<(u64, Vec<Tensor>)>::new();
    for tensor in tensors {
        let bytes = tensor.byte_len() as u64;
        match shards.last_mut() {
            Some((held, shard)) if *held + bytes <= shard_bytes => {
                *held += bytes;
                shard.push(tensor);
            }
            _ => shards.push((bytes, vec![tensor])),
        }
    }
    let n = shards.len();
    if n <= 1 {
        let (_, tensors) = shards.pop().unwrap_or_default();
        write_file(&folder.join(SINGLE), tensors)?;
        return Ok(vec![SINGLE.into()]);
    }
    let total = shards.iter().map(|(bytes, _)| bytes).sum::<u64>();
    let mut files = Vec::new();
    let mut map = BTreeMap::new();
    for (index, (_, tensors)) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{n:05}.safetensors", index + 1);
        map.extend(tensors.iter().map(|t| (t.name.clone(), file.clone())));
        write_file(&folder.join(&file), tensors)?;
        files.push(file.into());
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    let path = folder.join(INDEX);
    let text = format!("{index:#}\n");
    fs::write(&path, text).map_err(|source| ConvertError::Write { path, source })?;
    files.push(INDEX.into());
    Ok(files)
}

fn write_file(path: &Path, tensors: Vec<Tensor>) -> Result<(), ConvertError> {
    let problem = RefCell::new(None);
    let views = tensors.into_iter().map(|tensor| {
        let dtype = dtype(&tensor)?;
        let view = Lazy {
            dtype,
            shape: tensor.shape.to_vec(),
            tensor,
            problem: &problem,
        };
        Ok((view.tensor.name.clone(), view))
    });
    let views = views.collect::<Result<Vec<_>, ConvertError>>()?;
    // transformers asks for it.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    // The library's file would be one that nobody else can read.
    let failed = |source| ConvertError::Write {
        path: path.into(),
        source,
    };
    let file = fs::File::create(path).and_then(|file| file.metadata());
    let permissions = file.map_err(failed)?.permissions();
    let written = serialize_to_file(views, Some(metadata), path);
    let problem = problem.into_inner();
    let problem = problem.or(written.err().map(|error| error.to_string()));
    match problem {
        None => fs::set_permissions(path, permissions).map_err(failed),
        Some(problem) => Err(ConvertError::Weights {
            path: path.into(),
            problem,
        }),
    }
}

/// A tensor that is read when it is written. The first that cannot be read is noted; nothing more is read
/// after it, and the file is of no use.
struct Lazy<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    tensor: Tensor,
    problem: &'a RefCell<Option<String>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.problem.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        match self.tensor.clone().into_bytes() {
            Ok(bytes) => Cow::Owned(bytes.to_vec()),
            Err(error) => {
                let name = &self.tensor.name;
                *self.problem.borrow_mut() = Some(format!("tensor `{name}`: {error}"));
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.tensor.byte_len()
    }
}

fn dtype(tensor: &Tensor) -> Result<Dtype, ConvertError> {
    Ok(match tensor.dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(_) => Dtype::BOOL,
        other => {
            return Err(ConvertError::DType {
                name: tensor.name.clone(),
                dtype: format!("{other:?}"),
                format: "safetensors",
            });
        }
    })
}
