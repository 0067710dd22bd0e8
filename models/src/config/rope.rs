use quest_burn::attention::{RopeConfig, RopeScaling};

use super::fields::{Fields, MAX_SIZE};
use crate::error::ModelError;

const SUPPORTED: &str = "default, linear, llama3, yarn, longrope of one list of factors";

/// Kinds of layers whose parameters may differ.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The part of a head's channels that is rotated.
const PARTIAL: &str = "partial_rotary_factor";

/// What `config.json` says about positions.
pub(super) struct Positions {
    pub rope: RopeConfig,
    /// That of layers with a sliding window, where the file gives them one of their own.
    pub windows_rope: Option<RopeConfig>,
    /// Longest context that the model is made for.
    pub max_positions: usize,
}

/// Reads the rotary embedding in either generation: `rope_theta` beside `rope_scaling`, or both in
/// `rope_parameters`. Where there are both, `rope_scaling` counts, as in transformers.
///
/// Of some architectures only a part of a head's channels is rotated, where `is_partial` says so.
pub(super) fn positions(
    config: &Fields<'_>,
    max_positions: usize,
    head_dim: usize,
    is_partial: bool,
) -> Result<Positions, ModelError> {
    let older = config
        .object("rope_scaling")?
        .filter(|fields| !fields.is_empty());
    let is_older = older.is_some();
    let newer = match &older {
        Some(_) => None,
        None => config.object("rope_parameters")?,
    };
    let windows_rope = match &newer {
        Some(fields) => fields.object(SLIDING)?,
        None => None,
    };
    let windows_rope = match windows_rope {
        Some(fields) => Some(scaled(config, &fields, max_positions)?),
        None => {
            let theta = config.optional("rope_local_base_freq")?;
            theta.map(|theta| RopeConfig::new().with_theta(theta))
        }
    };
    // Both kinds of layers may have parameters of their own.
    let newer = match newer {
        Some(fields) if fields.has(FULL) => fields.object(FULL)?,
        newer => newer,
    };
    let parameters = older.or(newer);
    let theta = match &parameters {
        Some(fields) => fields.optional("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => config.optional("rope_theta")?.unwrap_or(10_000.0),
    };
    let mut rotary_dim = None;
    for fields in parameters.iter().chain([config]) {
        let part = fields.optional::<f64>(PARTIAL)?.filter(|part| *part != 1.0);
        match part {
            Some(part) if !is_partial => {
                return Err(fields.unsupported(PARTIAL, part.to_string(), "1"));
            }
            Some(part) => rotary_dim = rotary_dim.or(Some((head_dim as f64 * part) as usize)),
            None => {}
        }
    }
    let (scaling, stretched) = match &parameters {
        Some(fields) => scaling(config, fields, max_positions)?,
        None => (condensed(config)?, None),
    };
    // `max_position_embeddings` is the context after the stretching, as transformers takes it, unless
    // YaRN is given in the older generation; LongChat's files state the context beside it or give a
    // ratio.
    let max_positions = match scaling {
        RopeScaling::Linear { factor } if is_older || parameters.is_none() => {
            let stated = config.optional_size("max_sequence_length", MAX_SIZE)?;
            let condensed = (max_positions as f64 * factor) as usize;
            stated
                .or_else(|| parameters.is_none().then_some(condensed))
                .map_or(max_positions, |stated| stated.max(max_positions))
        }
        RopeScaling::Yarn { .. } if is_older => stretched.unwrap_or(0).max(max_positions),
        _ => max_positions,
    };
    Ok(Positions {
        windows_rope,
        rope: RopeConfig::new()
            .with_theta(theta)
            .with_scaling(scaling)
            .with_rotary_dim(rotary_dim),
        max_positions,
    })
}

/// An embedding of which all is in one object.
fn scaled(
    config: &Fields<'_>,
    fields: &Fields<'_>,
    max_positions: usize,
) -> Result<RopeConfig, ModelError> {
    let (scaling, _) = scaling(config, fields, max_positions)?;
    let theta = fields.optional("rope_theta")?.unwrap_or(10_000.0);
    Ok(RopeConfig::new().with_theta(theta).with_scaling(scaling))
}

/// LongRoPE whose factors do not depend on the length, which is what GGUF files can say. The factor of
/// the attention must be given.
fn factors(fields: &Fields<'_>, kind: &str) -> Result<Vec<f64>, ModelError> {
    let short = fields.optional::<Vec<f64>>("short_factor")?;
    let long = fields.optional::<Vec<f64>>("long_factor")?;
    let is_scaled = fields.optional::<f64>("attention_factor")? != Some(1.0);
    short
        .filter(|short| !is_scaled && Some(short) == long.as_ref())
        .ok_or_else(|| fields.unsupported("RoPE type", kind, SUPPORTED))
}

/// LongChat's first releases divide positions by a ratio.
fn condensed(config: &Fields<'_>) -> Result<RopeScaling, ModelError> {
    Ok(match config.optional::<f64>("rope_condense_ratio")? {
        Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
        _ => RopeScaling::Default,
    })
}

/// The scaling, and the context after YaRN's stretching where the one before it is stated.
fn scaling(
    config: &Fields<'_>,
    fields: &Fields<'_>,
    max_positions: usize,
) -> Result<(RopeScaling, Option<usize>), ModelError> {
    if let Some(nested) = fields.objects().next() {
        let found = format!("rope parameters of {nested}");
        return Err(fields.unsupported("kind of layers", found, "one RoPE for all layers"));
    }
    let kind = match fields.optional::<String>("rope_type")? {
        Some(kind) => Some(kind),
        None => fields.optional("type")?,
    };
    let kind = match kind {
        Some(kind) => kind,
        // A factor without a type was meant to do something.
        None if fields.has("factor") => return Err(fields.missing("rope_type")),
        None => "default".into(),
    };
    // Beside the other sizes it takes precedence, as in transformers.
    let original = match config.optional_size("original_max_position_embeddings", MAX_SIZE)? {
        Some(original) => Some(original),
        None => fields.optional_size("original_max_position_embeddings", MAX_SIZE)?,
    };
    let original_max_positions = original.unwrap_or(max_positions);
    let scaling = match kind.as_str() {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear {
            factor: fields.required("factor")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: fields.required("factor")?,
            low_freq_factor: fields.required("low_freq_factor")?,
            high_freq_factor: fields.required("high_freq_factor")?,
            original_max_positions,
        },
        "yarn" => {
            let factor = match fields.optional("factor")? {
                Some(factor) => factor,
                None if original.is_some() => max_positions as f64 / original_max_positions as f64,
                None => return Err(fields.missing("factor")),
            };
            // Zero means absent, as in Python.
            let turns = |name: &str, default: f64| {
                let turns = fields.optional::<f64>(name)?;
                Ok::<_, ModelError>(turns.filter(|turns| *turns != 0.0).unwrap_or(default))
            };
            RopeScaling::Yarn {
                factor,
                original_max_positions,
                attention_factor: fields.optional("attention_factor")?,
                mscale: fields.optional("mscale")?,
                mscale_all_dim: fields.optional("mscale_all_dim")?,
                beta_fast: turns("beta_fast", 32.0)?,
                beta_slow: turns("beta_slow", 1.0)?,
                truncate: fields.optional("truncate")?.unwrap_or(true),
            }
        }
        // The first releases of Phi-3 call it otherwise.
        "longrope" | "su" => RopeScaling::Factors {
            factors: factors(fields, &kind)?,
        },
        _ => return Err(fields.unsupported("RoPE type", kind, SUPPORTED)),
    };
    let stretched = match scaling {
        RopeScaling::Yarn { factor, .. } => original.map(|original| original as f64 * factor),
        _ => None,
    };
    Ok((scaling, stretched.map(|stretched| stretched as usize)))
}
