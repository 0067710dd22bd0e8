use std::path::Path;

use quest_burn::inference::{QuantizationConfig, QuantizationError};
use serde::{Deserialize, Serialize};

use super::fields::{Fields, MAX_SIZE};
use crate::error::ModelError;

/// Weights of a group are a multiple of this.
const LEAST_GROUP: i64 = 16;

/// How the weights of the projections lie in a quantised checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredQuantization {
    /// Who wrote it, and so where bits lie.
    pub layout: PackedLayout,
    /// Bits of a weight: 4 or 8.
    pub bits: usize,
    /// Weights that share a scale and a zero point; all of an output channel where there is none.
    pub group_size: Option<usize>,
}

/// Where the bits of packed weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackedLayout {
    /// Words hold neighbouring inputs of an output channel; zero points are stored less one.
    Gptq,
    /// The same with zero points as they are.
    GptqV2,
    /// Words hold neighbouring output channels of an input, the even ones first.
    Awq,
}

impl StoredQuantization {
    /// How a projection with `d_input` input channels is kept. A group is the largest that divides the
    /// stored ones and the inputs; stored groups that are larger count several times.
    ///
    /// # Errors
    ///
    /// When the input channels make no groups.
    pub fn config(&self, d_input: usize) -> Result<QuantizationConfig, QuantizationError> {
        let stored = self.group_size.unwrap_or(d_input).max(1);
        let config = QuantizationConfig::new(self.bits).with_asymmetric(true);
        let config = config.with_group(config.group.min(1 << stored.trailing_zeros()));
        Ok(config.with_group(config.group_of(d_input)?))
    }

    /// Groups of an output channel, the last of which may be shorter.
    pub fn groups(&self, d_input: usize) -> usize {
        self.group_size.map_or(1, |size| d_input.div_ceil(size))
    }

    /// The name by which programs know it.
    pub fn name(&self) -> &'static str {
        match (self.layout, self.bits) {
            (PackedLayout::Awq, _) => "awq-int4",
            (PackedLayout::Gptq | PackedLayout::GptqV2, 4) => "gptq-int4",
            (PackedLayout::Gptq | PackedLayout::GptqV2, _) => "gptq-int8",
        }
    }

    /// Weights of a 32-bit word.
    pub fn per_word(&self) -> usize {
        32 / self.bits
    }

    /// What files of its own beside `config.json` say, as AutoGPTQ and AutoAWQ write them.
    pub(super) fn beside(dir: &Path) -> Result<Option<Self>, ModelError> {
        for (name, method) in [
            ("quantize_config.json", "gptq"),
            ("quant_config.json", "awq"),
        ] {
            let path = dir.join(name);
            if path.is_file() {
                return Self::of_method(&Fields::read(&path)?, Some(method)).map(Some);
            }
        }
        Ok(None)
    }

    /// What `quantization_config` says.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        Self::of_method(fields, None)
    }

    /// The same with a method where none is given.
    fn of_method(fields: &Fields<'_>, usual: Option<&str>) -> Result<Self, ModelError> {
        const SUPPORTED: &str = "weights in f32, f16 or bf16, gptq, awq";
        let method = fields.optional::<String>("quant_method")?;
        let method = method.or_else(|| usual.map(str::to_owned));
        let method = method.unwrap_or_else(|| "of unknown method".into());
        let layout = match method.as_str() {
            "gptq" => gptq_layout(fields)?,
            "awq" => awq_layout(fields)?,
            _ => return Err(fields.unsupported("quantization", method, SUPPORTED)),
        };
        let bits = one_of(fields, ["bits", "w_bit"])?;
        let bits = bits.ok_or_else(|| fields.missing("bits"))?;
        let is_supported = match layout {
            PackedLayout::Gptq | PackedLayout::GptqV2 => matches!(bits, 4 | 8),
            PackedLayout::Awq => bits == 4,
        };
        if !is_supported {
            return Err(fields.unsupported("bits", bits.to_string(), "4, with gptq 8 too"));
        }
        let group_size = one_of(fields, ["group_size", "q_group_size"])?;
        let group_size = match group_size.ok_or_else(|| fields.missing("group_size"))? {
            -1 => None,
            size if size > 0 && size % LEAST_GROUP == 0 && size <= MAX_SIZE as i64 => {
                Some(size as usize)
            }
            size => {
                let problem = format!("expected -1 or a multiple of {LEAST_GROUP}, found {size}");
                return Err(fields.invalid("group_size", problem));
            }
        };
        Ok(Self {
            layout,
            bits: bits as usize,
            group_size,
        })
    }
}

fn gptq_layout(fields: &Fields<'_>) -> Result<PackedLayout, ModelError> {
    const NAME: &str = "checkpoint_format";
    match fields.optional::<String>(NAME)?.as_deref() {
        None | Some("gptq") => Ok(PackedLayout::Gptq),
        Some("gptq_v2") => Ok(PackedLayout::GptqV2),
        Some(other) => Err(fields.unsupported(NAME, other.to_owned(), "gptq, gptq_v2")),
    }
}

fn awq_layout(fields: &Fields<'_>) -> Result<PackedLayout, ModelError> {
    let version = fields.optional::<String>("version")?;
    if let Some(version) = version.filter(|version| !version.eq_ignore_ascii_case("gemm")) {
        return Err(fields.unsupported("version", version, "gemm"));
    }
    if !fields.optional("zero_point")?.unwrap_or(true) {
        return Err(fields.unsupported("zero_point", "false", "true"));
    }
    Ok(PackedLayout::Awq)
}

/// A number that older files call otherwise.
fn one_of(fields: &Fields<'_>, names: [&str; 2]) -> Result<Option<i64>, ModelError> {
    for name in names {
        if let Some(number) = fields.optional(name)? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}
