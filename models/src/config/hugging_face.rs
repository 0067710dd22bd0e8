use std::path::Path;

use burn::tensor::DType;
use serde::Deserialize;

use super::{
    Architecture, ModelConfig,
    fields::{Fields, MAX_SIZE},
    rope::{Positions, positions},
    stored_quantization::StoredQuantization,
};
use crate::{error::ModelError, sampling::SamplingDefaults, source::GenerationDefaults};

/// More layers than any model has.
pub(crate) const MAX_LAYERS: usize = 1 << 12;

/// The configuration of a folder.
pub(crate) fn read(dir: &Path) -> Result<ModelConfig, ModelError> {
    let path = dir.join(ModelConfig::FILE);
    let mut config = parse(Fields::read(&path)?)?;
    if config.quantization.is_none() {
        config.quantization = StoredQuantization::beside(dir)?;
    }
    Ok(stopping_at(config, stop_token_ids(dir)?))
}

/// The configuration with the stop tokens that `generation_config.json` recommends, if it does.
pub(crate) fn stopping_at(config: ModelConfig, recommended: Vec<u32>) -> ModelConfig {
    match recommended.is_empty() {
        true => config,
        false => ModelConfig {
            stop_token_ids: recommended,
            ..config
        },
    }
}

/// What `generation_config.json` of a folder recommends; nothing where there is none.
pub(crate) fn generation(dir: &Path) -> Result<GenerationDefaults, ModelError> {
    let path = dir.join(ModelConfig::GENERATION_FILE);
    match path.exists() {
        true => recommended(&Fields::read(&path)?),
        false => Ok(GenerationDefaults::default()),
    }
}

fn stop_token_ids(dir: &Path) -> Result<Vec<u32>, ModelError> {
    let path = dir.join(ModelConfig::GENERATION_FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    token_ids(&Fields::read(&path)?, "eos_token_id")
}

/// What the fields of `generation_config.json` recommend.
pub(crate) fn recommended(fields: &Fields<'_>) -> Result<GenerationDefaults, ModelError> {
    Ok(GenerationDefaults {
        sampling: SamplingDefaults::read(fields)?,
        stop_token_ids: token_ids(fields, "eos_token_id")?,
    })
}

/// The configuration that some fields are.
pub(crate) fn parse(fields: Fields<'_>) -> Result<ModelConfig, ModelError> {
    let architecture = architecture(&fields)?;
    // Models that see have one of their own for text.
    let fields = &architecture
        .family()
        .complete(fields.flattened("text_config")?);

    let size = |name| fields.size(name, MAX_SIZE);
    let d_model = size("hidden_size")?;
    let n_heads = size("num_attention_heads")?;
    let n_kv_heads = n_kv_heads(fields, n_heads)?;
    let head_dim = head_dim(fields, d_model, n_heads)?;
    let n_layers = fields.size("num_hidden_layers", MAX_LAYERS)?;

    let Positions {
        rope,
        windows_rope,
        max_positions,
    } = positions(
        fields,
        size("max_position_embeddings")?,
        head_dim,
        architecture.family().is_rotated_in_part,
    )?;
    for rope in [Some(&rope), windows_rope.as_ref()].into_iter().flatten() {
        rope.validate(head_dim).map_err(|source| ModelError::Rope {
            path: fields.path().into(),
            source,
        })?;
    }
    let mut blocks = (architecture.family().blocks)(fields)?;
    if let Some(windows) = &mut blocks.windows {
        windows.rope = windows_rope.filter(|windows_rope| *windows_rope != rope);
    }
    blocks.windows = blocks
        .windows
        .filter(|windows| windows.matter(max_positions));
    let quantization = fields
        .object("quantization_config")?
        .map(|quantization| StoredQuantization::read(&quantization))
        .transpose()?;
    if let (Some(quantization), Some(_)) = (quantization, &blocks.experts) {
        let found = format!("{} of experts", quantization.name());
        return Err(fields.unsupported("quantization", found, "experts in f32, f16 or bf16"));
    }
    Ok(ModelConfig {
        architecture,
        vocab_size: size("vocab_size")?,
        d_model,
        d_ff: size(architecture.family().d_ff)?,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        max_positions,
        rms_norm_epsilon: rms_norm_epsilon(fields)?,
        rope,
        blocks,
        tie_word_embeddings: fields.optional("tie_word_embeddings")?.unwrap_or(false),
        quantization,
        dtype: dtype(fields)?,
        bos_token_id: fields.token_id("bos_token_id")?,
        stop_token_ids: token_ids(fields, "eos_token_id")?,
    })
}

fn architecture(fields: &Fields<'_>) -> Result<Architecture, ModelError> {
    let classes = fields.optional::<Vec<String>>("architectures")?;
    let class = classes.unwrap_or_default().into_iter().next();
    let model_type = fields.optional::<String>("model_type")?;
    // As in transformers the type decides; the class stands for it where it is absent or one's own.
    let known = model_type
        .as_deref()
        .and_then(Architecture::from_model_type);
    let known = known.or_else(|| class.as_deref().and_then(Architecture::from_class));
    match (known, class.or(model_type)) {
        (Some(architecture), _) => Ok(architecture),
        (None, Some(name)) => {
            Err(fields.unsupported("architecture", name, Architecture::supported()))
        }
        (None, None) => Err(fields.missing("architectures")),
    }
}

fn n_kv_heads(fields: &Fields<'_>, n_heads: usize) -> Result<usize, ModelError> {
    const NAME: &str = "num_key_value_heads";
    let n_kv_heads = fields.optional_size(NAME, MAX_SIZE)?.unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        let problem =
            format!("expected a divisor of the {n_heads} attention heads, found {n_kv_heads}");
        return Err(fields.invalid(NAME, problem));
    }
    Ok(n_kv_heads)
}

fn head_dim(fields: &Fields<'_>, d_model: usize, n_heads: usize) -> Result<usize, ModelError> {
    if let Some(head_dim) = fields.optional_size("head_dim", MAX_SIZE)? {
        return Ok(head_dim);
    }
    if !d_model.is_multiple_of(n_heads) {
        let problem =
            format!("expected a multiple of the {n_heads} attention heads, found {d_model}");
        return Err(fields.invalid("hidden_size", problem));
    }
    Ok(d_model / n_heads)
}

fn rms_norm_epsilon(fields: &Fields<'_>) -> Result<f64, ModelError> {
    const NAME: &str = "rms_norm_eps";
    let epsilon = fields.optional(NAME)?.unwrap_or(1e-6);
    if !(epsilon > 0.0 && epsilon < 1.0) {
        return Err(fields.invalid(
            NAME,
            format!("expected a number from 0 to 1, found {epsilon}"),
        ));
    }
    Ok(epsilon)
}

fn dtype(fields: &Fields<'_>) -> Result<Option<DType>, ModelError> {
    let name = match fields.optional::<String>("dtype")? {
        Some(name) => Some(name),
        None => fields.optional("torch_dtype")?,
    };
    let Some(name) = name else { return Ok(None) };
    match name.trim_start_matches("torch.") {
        "float32" => Ok(Some(DType::F32)),
        "float16" => Ok(Some(DType::F16)),
        "bfloat16" => Ok(Some(DType::BF16)),
        "float64" => Ok(Some(DType::F64)),
        // That of the weights.
        "auto" => Ok(None),
        _ => Err(fields.unsupported("dtype", name, "float64, float32, float16, bfloat16, auto")),
    }
}

/// One id or a list of them.
fn token_ids(fields: &Fields<'_>, name: &str) -> Result<Vec<u32>, ModelError> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a token id or a list of token ids")]
    enum Ids {
        One(i64),
        Several(Vec<i64>),
    }
    let ids = match fields.optional(name)? {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Several(ids)) => ids,
    };
    let too_large = |_| fields.invalid(name, "expected token ids of 32 bits".into());
    // A negative id stands for none.
    let ids = ids.into_iter().filter(|id| *id >= 0);
    ids.map(|id| u32::try_from(id).map_err(too_large)).collect()
}
