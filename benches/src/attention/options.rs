use std::time::Duration;

use burn::tensor::DType;
use clap::{Args, ValueEnum};
use quest_burn::{
    cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
};
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    BenchError, Launch,
    parse::{self, Heads},
    timing::Stopwatch,
};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// Writing a token's keys and values and folding its page's digest
    Append,
    /// Bounds of the attention scores of every page
    PageScores,
    /// The pages with the highest scores
    TopPages,
    /// Attention over those pages
    PagedAttention,
    /// The three above, one after another
    ThreeOperations,
    /// The three above as one operation, as the models call it
    TopKAttention,
    /// Attention over every page
    DenseAttention,
}

impl Operation {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Append,
        Self::PageScores,
        Self::TopPages,
        Self::PagedAttention,
        Self::ThreeOperations,
        Self::TopKAttention,
        Self::DenseAttention,
    ];

    /// Whether its work depends on the token budget.
    pub(crate) fn has_budget(self) -> bool {
        !matches!(self, Self::Append | Self::PageScores | Self::DenseAttention)
    }

    /// The name on the command line and in the results.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Lists that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// 32 and 8 KV heads at 32K and 128K tokens, budget 2048
    Target,
    /// The contexts and budgets of the paper's figures
    Figures,
    /// Every combination of batches, heads, head dims, contexts up to 1M, budgets and page sizes
    Full,
}

/// Options of `bench attention`. Lists replace those of the preset.
#[derive(Args, Clone, Debug)]
pub(crate) struct AttentionOptions {
    /// Values of the lists below that are not given
    #[arg(long, value_enum, default_value_t = Preset::Target)]
    pub preset: Preset,
    /// Sequences
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub batch: Vec<usize>,
    /// Query heads and KV heads, as in 32:32,32:8
    #[arg(long, value_name = "Q:KV,..", value_delimiter = ',')]
    pub heads: Vec<Heads>,
    /// Channels of a head
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub head_dim: Vec<usize>,
    /// Tokens of each sequence, as in 32K,128K
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens)]
    pub contexts: Vec<usize>,
    /// Tokens of the last sequence of a batch, where the first one has those of the context and each one between
    /// is shorter than the one before by the same factor [default: all have as many]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    pub shortest: Option<usize>,
    /// Tokens that a decoded token attends to
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens)]
    pub budgets: Vec<usize>,
    /// Tokens of a page: powers of two from 8 to 128
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub page_sizes: Vec<usize>,
    /// Element type of the KV cache: f32, f16 or bf16 [default: f16 on GPUs, f32 on CPUs]
    #[arg(long, value_parser = parse::float_dtype)]
    pub dtype: Option<DType>,
    /// What a page's digest keeps of its keys
    #[arg(long, value_name = "KIND,..", value_delimiter = ',', value_parser = parse::digest_kinds(), default_values_t = [DigestKind::default()])]
    pub digest: Vec<DigestKind>,
    /// Numbers that the digests are read in
    #[arg(long = "digest-storage", alias = "digests", value_name = "FORM,..", value_delimiter = ',', value_parser = parse::digest_storages(), default_values_t = [DigestStorage::Full])]
    pub digests: Vec<DigestStorage>,
    /// Numbers that keys and values are kept in
    #[arg(long, value_name = "FORM,..", value_delimiter = ',', value_parser = parse::kv_storages(), default_values_t = [KvStorage::Full])]
    pub kv_cache: Vec<KvStorage>,
    /// Only these operations
    #[arg(long, value_enum, value_name = "OPERATION,..", value_delimiter = ',')]
    pub only: Vec<Operation>,
    /// How the work reaches the device
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Launch::Graph, Launch::Plain])]
    pub launch: Vec<Launch>,
    #[command(flatten)]
    pub effort: Effort,
}

/// How much time and memory may be taken.
#[derive(Args, Clone, Debug)]
pub(crate) struct Effort {
    /// Bytes that caches and weights may take, as in 60GB [default: 85 % of what the device has]
    #[arg(long, value_name = "BYTES", value_parser = count::bytes)]
    pub memory_limit: Option<u64>,
    /// Begins no measurement after this many minutes
    #[arg(long, value_name = "N")]
    pub minutes: Option<f64>,
    /// Rounds of a measurement; their median is reported
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Minimum milliseconds of a round
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub round_ms: u16,
}

impl Effort {
    pub(crate) fn stopwatch(&self) -> Stopwatch {
        Stopwatch {
            rounds: self.rounds.into(),
            round: Duration::from_millis(self.round_ms.into()),
        }
    }

    /// The time after which nothing is begun.
    pub(crate) fn time_limit(&self) -> Result<Option<Duration>, BenchError> {
        let Some(minutes) = self.minutes else {
            return Ok(None);
        };
        let limit = Duration::try_from_secs_f64(minutes * 60.0);
        limit.map(Some).map_err(|_| BenchError::Option {
            option: "--minutes",
            expected: "a number of minutes".into(),
            found: minutes.to_string(),
        })
    }
}

impl AttentionOptions {
    /// Fills the lists that were not given from the preset, and checks all of them.
    pub(super) fn resolved(&self) -> Result<Self, BenchError> {
        const K: usize = 1024;
        let full = self.preset == Preset::Full;
        let (contexts, budgets): (&[usize], &[usize]) = match self.preset {
            Preset::Target => (&[32 * K, 128 * K], &[2048]),
            Preset::Figures => (
                &[4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K],
                &[512, 1024, 2048, 4096],
            ),
            Preset::Full => (
                &[
                    32 * K,
                    128 * K,
                    4 * K,
                    8 * K,
                    16 * K,
                    64 * K,
                    256 * K,
                    512 * K,
                    1024 * K,
                ],
                &[2048, 512, 1024, 4096, 8192],
            ),
        };
        let heads = ["32:32", "32:8", "16:8", "8:1"].map(|heads| heads.parse::<Heads>());
        let heads = heads.into_iter().flatten().collect::<Vec<_>>();
        let or = |given: &[usize], preset: &[usize]| match given {
            [] => preset.to_vec(),
            given => given.to_vec(),
        };
        let resolved = Self {
            batch: or(&self.batch, if full { &[1, 4, 16] } else { &[1] }),
            heads: match &self.heads[..] {
                [] if full => heads,
                [] => heads[..2].to_vec(),
                given => given.to_vec(),
            },
            head_dim: or(&self.head_dim, if full { &[128, 64] } else { &[128] }),
            contexts: or(&self.contexts, contexts),
            budgets: or(&self.budgets, budgets),
            page_sizes: or(
                &self.page_sizes,
                if full {
                    &[8, 16, 32]
                } else {
                    &[PagedKvCacheConfig::PAGE_SIZE]
                },
            ),
            ..self.clone()
        };
        for (option, values) in [
            ("--batch", &resolved.batch),
            ("--head-dim", &resolved.head_dim),
            ("--page-sizes", &resolved.page_sizes),
        ] {
            if values.contains(&0) {
                return Err(BenchError::Option {
                    option,
                    expected: "numbers of at least 1".into(),
                    found: "0".into(),
                });
            }
        }
        Ok(resolved)
    }
}
