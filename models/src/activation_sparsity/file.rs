//! The file beside a checkpoint: a safetensors file with the thresholds of all projections, fingerprints of
//! their weights, and the factors.

use std::{collections::HashMap, fs, path::Path};

use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};

use super::{
    ActivationSparsity, Factors, ModelShape, Projection, ProjectionSparsity, SparsityError,
};

/// What the metadata say of the file.
const FORMAT: (&str, &str) = ("format", "quest-activation-sparsity-1");
const THRESHOLDS: &str = "thresholds";
const FINGERPRINTS: &str = "fingerprints";

/// The name of a factor's tensor.
fn factor(layer: usize, projection: Projection, factor: &str) -> String {
    format!("layers.{layer}.{}.{factor}", projection.name())
}

impl ActivationSparsity {
    /// Writes the file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), SparsityError> {
        let table = |number: fn(&ProjectionSparsity) -> f32| {
            let numbers = self
                .projections
                .iter()
                .flat_map(|p| number(p).to_le_bytes());
            numbers.collect::<Vec<u8>>()
        };
        let (thresholds, fingerprints) = (table(|p| p.threshold), table(|p| p.fingerprint));
        let shape = vec![self.model.n_layers, Projection::ALL.len()];
        let mut tensors = vec![
            (
                THRESHOLDS.to_owned(),
                (Dtype::F32, shape.clone(), &thresholds[..]),
            ),
            (
                FINGERPRINTS.to_owned(),
                (Dtype::F32, shape, &fingerprints[..]),
            ),
        ];
        for (layer, projection) in self.model.projections() {
            let Some(factors) = &self.of(layer, projection).low_rank else {
                continue;
            };
            for (name, data) in [("down", &factors.down), ("up", &factors.up)] {
                let shape = data.shape().to_vec();
                let name = factor(layer, projection, name);
                tensors.push((name, (Dtype::F16, shape, data.as_bytes())));
            }
        }
        let tensors = tensors.into_iter().map(|(name, (dtype, shape, bytes))| {
            let view = TensorView::new(dtype, shape, bytes);
            (name, view.expect("as many bytes as the shape says"))
        });
        let model = serde_json::to_string(&self.model).expect("sizes can be written");
        let metadata = HashMap::from([
            (FORMAT.0.to_owned(), FORMAT.1.to_owned()),
            ("model".to_owned(), model),
            ("sparsity".to_owned(), self.sparsity.to_string()),
            ("rank".to_owned(), self.rank.to_string()),
            ("tokens".to_owned(), self.tokens.to_string()),
        ]);
        let bytes = serialize(tensors, Some(metadata)).map_err(|error| SparsityError::File {
            path: path.into(),
            problem: error.to_string(),
        })?;
        fs::write(path, bytes).map_err(|source| SparsityError::Io {
            path: path.into(),
            what: "written",
            source,
        })
    }

    /// Reads the file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is of another kind, or garbled.
    pub fn read(path: &Path) -> Result<Self, SparsityError> {
        let bytes = fs::read(path).map_err(|source| SparsityError::Io {
            path: path.into(),
            what: "read",
            source,
        })?;
        Self::from_bytes(&bytes).map_err(|problem| SparsityError::File {
            path: path.into(),
            problem,
        })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let no_file = |error| format!("expected a safetensors file, found another: {error}");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(no_file)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(no_file)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let text = |name: &str| {
            let found = metadata.get(name).map(String::as_str);
            found.ok_or_else(|| format!("metadata: expected `{name}`, found none"))
        };
        let format = metadata.get(FORMAT.0).map_or("none", String::as_str);
        if format != FORMAT.1 {
            let (name, expected) = FORMAT;
            return Err(format!("{name}: expected {expected}, found {format}"));
        }
        let count = |name| {
            let text = text(name)?;
            let number = text.parse::<usize>();
            number.map_err(|_| format!("metadata `{name}`: expected a number, found {text}"))
        };
        let model: ModelShape = serde_json::from_str(text("model")?)
            .map_err(|error| format!("metadata `model`: expected sizes of a model: {error}"))?;
        let sparsity = text("sparsity")?;
        let share = sparsity.parse::<f64>().ok();
        let share = share.filter(|share| (0.0..1.0).contains(share));
        let sparsity = share.ok_or_else(|| {
            format!("metadata `sparsity`: expected a share from 0 to below 1, found {sparsity}")
        })?;
        let (rank, tokens) = (count("rank")?, count("tokens")?);

        let tensors = Tensors(&tensors);
        let shape = [model.n_layers, Projection::ALL.len()];
        let numbers = |name: &str, least: f32| {
            let bytes = tensors.bytes(name, Dtype::F32, shape)?;
            let numbers = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .copied()
                .map(f32::from_le_bytes);
            let numbers: Vec<f32> = numbers.collect();
            match numbers.iter().find(|x| !x.is_finite() || **x < least) {
                None => Ok(numbers),
                Some(bad) => Err(format!(
                    "`{name}`: expected numbers from {least} on, found {bad}"
                )),
            }
        };
        let (thresholds, fingerprints) =
            (numbers(THRESHOLDS, 0.0)?, numbers(FINGERPRINTS, f32::MIN)?);
        let mut projections = Vec::new();
        for (index, (layer, projection)) in model.projections().enumerate() {
            let [d_output, d_input] = projection.dims(&model);
            let factor = |name: &str, shape: [usize; 2]| {
                let bytes = tensors.bytes(&factor(layer, projection, name), Dtype::F16, shape)?;
                let data = TensorData::from_bytes_vec(bytes.to_vec(), shape, DType::F16);
                Ok::<_, String>(data)
            };
            let low_rank = match rank {
                0 => None,
                rank => Some(Factors {
                    down: factor("down", [d_input, rank])?,
                    up: factor("up", [rank, d_output])?,
                }),
            };
            projections.push(ProjectionSparsity {
                threshold: thresholds[index],
                fingerprint: fingerprints[index],
                low_rank,
            });
        }
        Ok(Self {
            model,
            sparsity,
            rank,
            tokens,
            projections,
        })
    }
}

struct Tensors<'a>(&'a SafeTensors<'a>);

impl<'a> Tensors<'a> {
    fn bytes(&self, name: &str, dtype: Dtype, shape: [usize; 2]) -> Result<&'a [u8], String> {
        let tensor = self.0.tensor(name);
        let tensor = tensor.map_err(|_| format!("expected a tensor `{name}`, found none"))?;
        if tensor.dtype() != dtype || tensor.shape() != shape {
            let (found, sizes) = (tensor.dtype(), tensor.shape());
            return Err(format!(
                "`{name}`: expected {shape:?} in {dtype}, found {sizes:?} in {found}"
            ));
        }
        Ok(tensor.data())
    }
}
