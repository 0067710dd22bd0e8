//! Options that the subcommands share.

use std::path::PathBuf;

use burn::tensor::DType;
use clap::{
    Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use quest_burn::{
    QuestConfig,
    cache::DigestFormat,
    inference::WeightFormat,
    policy::{PolicyConfig, PolicyKind},
};
use quest_burn_experiments::tokens;
use quest_burn_models::{generation::GenerationConfig, sampling::SamplingConfig};

use crate::{device::DeviceName, policies::PolicyParser};

/// Which model runs, and where.
#[derive(Args)]
pub struct ModelOptions {
    /// Folder of a Hugging Face checkpoint, or a model of the hub: `org/name`, `org/name@revision`,
    /// `org/name:Q4_K_M` for one of its GGUF files [default: the model that ships with the program]
    #[arg(long = "model", value_name = "MODEL")]
    pub folder: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    pub device: DeviceName,
    /// Element type of weights and KV cache [default: f32 on CPUs and wgpu, else the checkpoint's
    /// half type or f16]
    #[arg(long, value_enum)]
    pub dtype: Option<DTypeName>,
    /// Form of the weights of the layers' projections; embeddings, norms and the projection to
    /// logits are always in the element type. `full` leaves those of GPTQ and AWQ checkpoints as they
    /// are
    #[arg(long, value_name = "FORM", value_parser = weight_formats(), default_value_t = WeightFormat::Full)]
    pub weights: WeightFormat,
    /// Tokens of a prompt that go through the model at once
    #[arg(
        long,
        value_name = "N",
        value_parser = tokens::parse_count,
        default_value_t = GenerationConfig::new().prefill_chunk
    )]
    pub prefill_chunk: usize,
}

/// Which model runs, where and how.
#[derive(Args)]
pub struct CommonOptions {
    #[command(flatten)]
    pub model: ModelOptions,
    /// Most tokens in the context [default: as many as are needed, up to the checkpoint's limit]
    #[arg(long, value_name = "N", value_parser = tokens::parse)]
    pub context: Option<usize>,
    #[command(flatten)]
    pub policy: PolicyOptions,
}

/// Which pages of the KV cache a decoded token attends to.
#[derive(Args)]
pub struct PolicyOptions {
    /// What a decoded token attends to, a name or name:key=value,.. [default: quest]
    #[arg(long, value_parser = PolicyParser)]
    pub policy: Option<PolicyKind>,
    /// Tokens that a decoded token attends to [default: 2048]
    #[arg(long, value_name = "B", value_parser = tokens::parse)]
    pub token_budget: Option<usize>,
    #[command(flatten)]
    pub selection: SelectionOptions,
    #[command(flatten)]
    pub layers: LayerOptions,
}

/// What all policies have in common but the budget and the layers.
#[derive(Args)]
pub struct SelectionOptions {
    /// Which of the published selections Quest uses
    #[arg(long, value_enum, default_value_t = QuestVariant::KvGroup)]
    pub quest_variant: QuestVariant,
    /// Tokens per page of the KV cache: a power of two from 8 to 128
    #[arg(
        long,
        value_name = "S",
        value_parser = tokens::parse_count,
        default_value_t = QuestConfig::new().page_size
    )]
    pub page_size: usize,
    /// Form of the page digests that Quest reads
    #[arg(long, value_parser = digest_formats(), default_value_t = DigestFormat::Full)]
    pub digests: DigestFormat,
}

/// Which layers have a policy.
#[derive(Args)]
pub struct LayerOptions {
    /// Leading layers that attend to everything
    #[arg(long, value_name = "D", default_value_t = QuestConfig::new().dense_layers)]
    pub dense_layers: usize,
}

impl SelectionOptions {
    /// The configuration of Quest with that many dense layers, which also says the page size of a
    /// dense cache.
    pub fn quest_config(&self, dense_layers: usize) -> QuestConfig {
        match self.quest_variant {
            QuestVariant::AccuracyCode => QuestConfig::accuracy_code(),
            QuestVariant::Kernels => QuestConfig::kernels(),
            QuestVariant::KvGroup => QuestConfig::kv_group(),
        }
        .with_page_size(self.page_size)
        .with_dense_layers(dense_layers)
    }
}

impl PolicyOptions {
    /// Which policy it is.
    pub fn kind(&self) -> PolicyKind {
        self.policy.unwrap_or(PolicyKind::Quest)
    }

    /// The policy that was chosen.
    pub fn config(&self) -> PolicyConfig {
        let quest = self.selection.quest_config(self.layers.dense_layers);
        let budget = self.token_budget.unwrap_or(quest.token_budget);
        PolicyConfig::new(self.kind()).with_quest(quest.with_token_budget(budget))
    }
}

/// How the next token is chosen.
#[derive(Args)]
pub struct SamplingOptions {
    /// Draws tokens at this temperature [default: the most probable one is taken]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Draws from the K most probable tokens
    #[arg(long, value_name = "K", requires = "temperature")]
    pub top_k: Option<usize>,
    /// Draws from the most probable tokens that hold this probability together
    #[arg(long, value_name = "P", requires = "temperature")]
    pub top_p: Option<f64>,
    /// Draws from the tokens of at least this share of the highest probability
    #[arg(long, value_name = "P", requires = "temperature")]
    pub min_p: Option<f64>,
    /// Makes tokens that occurred before less probable
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f64>,
    /// Seed of the draws [default: 0]
    #[arg(long, value_name = "N", requires = "temperature")]
    pub seed: Option<u64>,
}

impl SamplingOptions {
    /// As the library takes it.
    pub fn config(&self) -> SamplingConfig {
        let default = SamplingConfig::new();
        SamplingConfig {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(default.repetition_penalty),
            seed: self.seed.unwrap_or(default.seed),
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum QuestVariant {
    /// A list per query head, the newest page competes, three pages at least
    AccuracyCode,
    /// A list per query head, the newest page is always read
    Kernels,
    /// A list per KV head, the newest page is always read
    KvGroup,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum DTypeName {
    F32,
    F16,
    Bf16,
}

impl DTypeName {
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// The forms of digests that the library knows.
pub fn digest_formats() -> impl TypedValueParser<Value = DigestFormat> {
    let names = DigestFormat::ALL
        .iter()
        .map(|format| PossibleValue::new(format.name()).help(format.about()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<DigestFormat>())
}

/// The forms of weights that the library knows.
pub fn weight_formats() -> impl TypedValueParser<Value = WeightFormat> {
    let names = WeightFormat::ALL
        .iter()
        .map(|format| PossibleValue::new(format.name()).help(format.about()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<WeightFormat>())
}

/// The name of an option's value, as it is written on the command line.
pub fn value_name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The name of an element type, as it is written on the command line.
pub fn dtype_name(dtype: DType) -> String {
    format!("{dtype:?}").to_lowercase()
}
