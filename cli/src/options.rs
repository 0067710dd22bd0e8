//! Options that the subcommands share.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::tensor::DType;
use clap::{
    Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use quest_burn::{
    QuestConfig,
    cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
    inference::WeightFormat,
    policy::{PolicyConfig, PolicyKind},
};
use quest_burn_models::{
    activation_sparsity::ActivationSparsity,
    generation::GenerationConfig,
    local::LocalModel,
    sampling::{SamplingConfig, SamplingDefaults},
    speculative::LosslessConfig,
};
use quest_burn_report::count;

use crate::{
    device::{self, DeviceName},
    policies::PolicyParser,
    prefill::PrefillOptions,
};

/// Which model runs, and where.
#[derive(Args)]
pub(crate) struct ModelOptions {
    /// Folder of a Hugging Face checkpoint, a GGUF file, or a model of the hub: `org/name`,
    /// `org/name@revision`, `org/name:Q4_K_M` for one of its GGUF files [default: the model that ships with the program]
    #[arg(long = "model", value_name = "MODEL")]
    pub folder: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    pub device: DeviceName,
    /// Element type to compute in, and of the KV cache and of weights that --weights says nothing else of
    /// [default: f32 on CPUs and wgpu, else the checkpoint's half type or f16]
    #[arg(long, value_enum)]
    pub dtype: Option<DTypeName>,
    /// Form of the weights of the layers' projections; norms are always in the element type, embeddings and
    /// the projection to logits are but with `stored`. `full` widens blocks of GGUF files, and on CPUs f16 and bf16;
    /// it leaves the words of GPTQ and AWQ checkpoints as they are
    #[arg(long, value_name = "FORM", value_parser = weight_formats(), default_value_t = WeightFormat::Stored)]
    pub weights: WeightFormat,
    /// Tokens of a prompt that go through the model at once [default: 2048 on GPUs, 512 on CPUs]
    #[arg(long, value_name = "N", value_parser = count::any_tokens)]
    pub prefill_chunk: Option<usize>,
    #[command(flatten)]
    pub prefill: PrefillOptions,
}

impl ModelOptions {
    /// Tokens of a chunk on a GPU: fewer leave its matrix instructions idle, more gain 2 % (docs/prefill.md) and take memory.
    const GPU_CHUNK: usize = 2048;

    /// Tokens of a prompt that go through the model at once.
    pub(crate) fn prefill_chunk(&self) -> usize {
        self.prefill_chunk
            .unwrap_or_else(|| match device::is_gpu(self.device) {
                true => Self::GPU_CHUNK,
                false => GenerationConfig::new().prefill_chunk,
            })
    }
}

/// Which model runs, where and how.
#[derive(Args)]
pub(crate) struct CommonOptions {
    #[command(flatten)]
    pub model: ModelOptions,
    /// Most tokens in the context [default: as many as are needed, up to the checkpoint's limit]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    pub context: Option<usize>,
    #[command(flatten)]
    pub policy: PolicyOptions,
}

/// Which channels decoded tokens skip.
#[derive(Args)]
pub(crate) struct ChannelOptions {
    /// Skips the input channels of projections that matter least to a decoded token, as `quest calibrate` wrote
    /// into FILE [without FILE: quest-sparsity.safetensors beside the checkpoint]
    #[arg(long, value_name = "FILE")]
    activation_sparsity: Option<Option<PathBuf>>,
}

impl ChannelOptions {
    /// Whether any are skipped.
    pub(crate) fn are_given(&self) -> bool {
        self.activation_sparsity.is_some()
    }

    /// What was calibrated for the checkpoint at a path.
    pub(crate) fn read(
        &self,
        checkpoint: Option<&Path>,
    ) -> anyhow::Result<Option<ActivationSparsity>> {
        let Some(asked) = &self.activation_sparsity else {
            return Ok(None);
        };
        let Some(file) = asked.clone().or_else(|| checkpoint.map(beside)) else {
            bail!(
                "--activation-sparsity: expected a file, found none, and no --model that one is beside"
            );
        };
        let sparsity = ActivationSparsity::read(&file);
        Ok(Some(sparsity.context("--activation-sparsity")?))
    }
}

/// Where what was calibrated for a checkpoint is, a folder or a file.
pub(crate) fn beside(checkpoint: &Path) -> PathBuf {
    let folder = match checkpoint.is_dir() {
        true => checkpoint,
        false => checkpoint.parent().unwrap_or(Path::new("")),
    };
    folder.join(ActivationSparsity::FILE)
}

/// Which pages of the KV cache a decoded token attends to.
#[derive(Args)]
pub(crate) struct PolicyOptions {
    /// What a decoded token attends to, a name or name:key=value,.. [default: quest]
    #[arg(long, value_parser = PolicyParser)]
    pub policy: Option<PolicyKind>,
    /// Tokens that a decoded token attends to [default: 2048]
    #[arg(long, value_name = "B", value_parser = count::tokens)]
    pub token_budget: Option<usize>,
    #[command(flatten)]
    pub selection: SelectionOptions,
    #[command(flatten)]
    pub layers: LayerOptions,
}

/// What all policies have in common but the budget and the layers.
#[derive(Args)]
pub(crate) struct SelectionOptions {
    /// One of the published selections, with the paper's digests and no first page that is always
    /// read [default: what loses least on real text]
    #[arg(long, value_enum)]
    pub quest_variant: Option<QuestVariant>,
    /// Tokens per page of the KV cache: a power of two from 8 to 128 [default: 8, or 16 with
    /// --quest-variant]
    #[arg(long, value_name = "S", value_parser = count::any_tokens)]
    pub page_size: Option<usize>,
    /// What a page's digest keeps of its keys [default: mean-scalar, or min-max with --quest-variant]
    #[arg(long, value_parser = quest_burn_benches::digest_kinds())]
    pub digest: Option<DigestKind>,
    /// Numbers in which Quest reads the digests
    #[arg(long, alias = "digests", value_parser = quest_burn_benches::digest_storages(), default_value_t = DigestStorage::Full)]
    pub digest_storage: DigestStorage,
    /// Numbers in which keys and values are kept
    #[arg(long, value_name = "FORM", value_parser = quest_burn_benches::kv_storages(), default_value_t = KvStorage::Full)]
    pub kv_cache: KvStorage,
    /// First pages that Quest always reads; they count towards the budget, one page of which is the
    /// newest [default: 1, or 0 with --quest-variant]
    #[arg(long, value_name = "N")]
    pub sink_pages: Option<usize>,
    /// Last pages that Quest always reads; they count towards the budget [default: the newest one,
    /// unless the variant lets it compete]
    #[arg(long, value_name = "N")]
    pub recent_pages: Option<usize>,
}

/// Which layers have a policy.
#[derive(Args)]
pub(crate) struct LayerOptions {
    /// Leading layers that attend to everything [default: 0, or 2 with --quest-variant]
    #[arg(long, value_name = "D")]
    pub dense_layers: Option<usize>,
}

impl SelectionOptions {
    /// The configuration of Quest with that many dense layers, or those of the variant.
    pub(crate) fn quest_config(&self, dense_layers: Option<usize>) -> QuestConfig {
        let config = match self.quest_variant {
            None => QuestConfig::new(),
            Some(QuestVariant::AccuracyCode) => QuestConfig::accuracy_code(),
            Some(QuestVariant::Kernels) => QuestConfig::kernels(),
            Some(QuestVariant::KvGroup) => QuestConfig::kv_group(),
        };
        let (sinks, recent) = (config.sink_pages, config.recent_pages);
        let dense = config.dense_layers;
        config
            .with_dense_layers(dense_layers.unwrap_or(dense))
            .with_sink_pages(self.sink_pages.unwrap_or(sinks))
            .with_recent_pages(self.recent_pages.unwrap_or(recent))
    }

    /// The cache with the digests and the numbers that were chosen.
    pub(crate) fn with_digests(&self, cache: PagedKvCacheConfig) -> PagedKvCacheConfig {
        cache
            .with_digest(self.digest())
            .with_digest_storage(self.digest_storage)
            .with_kv_storage(self.kv_cache)
    }

    /// Tokens per page.
    pub(crate) fn page_size(&self) -> usize {
        let of_variant = self.quest_variant.map(|_| QuestVariant::PAGE_SIZE);
        (self.page_size.or(of_variant)).unwrap_or(LocalModel::PAGE_SIZE)
    }

    /// What the digests keep of a page's keys.
    pub(crate) fn digest(&self) -> DigestKind {
        let of_variant = self.quest_variant.map(|_| DigestKind::MinMax);
        self.digest.or(of_variant).unwrap_or_default()
    }
}

impl PolicyOptions {
    /// Which policy it is.
    pub(crate) fn kind(&self) -> PolicyKind {
        self.policy.unwrap_or(PolicyKind::QUEST)
    }

    /// The policy that was chosen.
    pub(crate) fn config(&self) -> PolicyConfig {
        let quest = self.selection.quest_config(self.layers.dense_layers);
        let budget = self.token_budget.unwrap_or(quest.token_budget);
        PolicyConfig::new(self.kind()).with_quest(quest.with_token_budget(budget))
    }
}

/// Whether answers are those of dense attention.
#[derive(Args)]
pub(crate) struct LosslessOptions {
    /// Answers as dense attention would: the policy drafts tokens, one dense pass verifies several
    #[arg(long, conflicts_with = "activation_sparsity")]
    lossless: bool,
    /// Tokens that are drafted before they are verified
    #[arg(
        long,
        value_name = "K",
        requires = "lossless",
        value_parser = count::any_tokens,
        default_value_t = LosslessConfig::new().draft_tokens
    )]
    draft_tokens: usize,
}

impl LosslessOptions {
    /// As the library takes it, for such prompts.
    pub(crate) fn config(
        &self,
        prefill: &PrefillOptions,
    ) -> anyhow::Result<Option<LosslessConfig>> {
        let config = LosslessConfig::new().with_draft_tokens(self.draft_tokens);
        config.validate()?;
        if self.lossless {
            prefill.refuse_lazy("--lossless")?;
        }
        Ok(self.lossless.then_some(config))
    }
}

/// How the next token is chosen. What is not given is as the checkpoint asks.
#[derive(Args)]
pub(crate) struct SamplingOptions {
    /// Draws tokens at this temperature; 0 takes the most probable one [default: as the checkpoint's
    /// generation_config.json says, else 0]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f64>,
    /// Draws from the K most probable tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draws from the most probable tokens that hold this probability together
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// Draws from the tokens of at least this share of the highest probability
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,
    /// Makes tokens that occurred before less probable
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f64>,
    /// Seed of the draws [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingOptions {
    /// As the library takes it, for what a checkpoint recommends. Says on stderr what was taken of that.
    pub(crate) fn config(&self, mut defaults: SamplingDefaults) -> anyhow::Result<SamplingConfig> {
        if self.temperature == Some(0.0) {
            // Nothing is drawn, so there is nothing to filter.
            let repetition_penalty = defaults.repetition_penalty;
            defaults = SamplingDefaults::default();
            defaults.repetition_penalty = repetition_penalty;
        }
        let base = defaults.config();
        let config = SamplingConfig {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            seed: self.seed.unwrap_or(base.seed),
        };
        if self.temperature.is_none() && config.is_greedy() {
            let without_effect = [
                ("--top-k", self.top_k.is_some()),
                ("--top-p", self.top_p.is_some()),
                ("--min-p", self.min_p.is_some()),
                ("--seed", self.seed.is_some()),
            ];
            if let Some((name, _)) = without_effect.iter().find(|(_, is_given)| *is_given) {
                bail!("{name}: expected --temperature <T> too, as nothing is drawn without it");
            }
        }
        self.report(&defaults);
        Ok(config)
    }

    fn report(&self, defaults: &SamplingDefaults) {
        let number = |name: &str, value: Option<f64>, is_given: bool| {
            let taken = value.filter(|_| !is_given);
            taken.map(|value| format!("{name} {value}"))
        };
        let top_k = defaults.top_k.filter(|_| self.top_k.is_none());
        let penalty = self.repetition_penalty.is_some();
        let taken = [
            number(
                "temperature",
                defaults.temperature,
                self.temperature.is_some(),
            ),
            top_k.map(|k| format!("top-k {k}")),
            number("top-p", defaults.top_p, self.top_p.is_some()),
            number("min-p", defaults.min_p, self.min_p.is_some()),
            number("repetition penalty", defaults.repetition_penalty, penalty),
        ];
        let taken = taken.into_iter().flatten().collect::<Vec<_>>();
        if !taken.is_empty() {
            let taken = taken.join(", ");
            eprintln!("sampling: {taken} (of the checkpoint's generation_config.json)");
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum QuestVariant {
    /// A list per query head, the newest page competes, three pages at least
    AccuracyCode,
    /// A list per query head, the newest page is always read
    Kernels,
    /// A list per KV head, the newest page is always read
    KvGroup,
}

impl QuestVariant {
    /// Tokens per page in the paper.
    const PAGE_SIZE: usize = 16;
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DTypeName {
    F32,
    F16,
    Bf16,
}

impl DTypeName {
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// The forms of weights that the library knows.
pub(crate) fn weight_formats() -> impl TypedValueParser<Value = WeightFormat> {
    let names = WeightFormat::ALL
        .iter()
        .map(|format| PossibleValue::new(format.name()).help(format.about()));
    PossibleValuesParser::new(names).try_map(|name| name.parse::<WeightFormat>())
}
