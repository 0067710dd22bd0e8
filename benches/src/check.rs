//! Whether the operations compute what they should on a device, and how near they come to what its
//! memory gives: in seconds, for whoever has this device and no other.

use burn::tensor::DType;
use quest_burn::{
    cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
};

use crate::{
    BenchError, Launch, Output, Record, Rows, Target,
    attention::{self, AttentionOptions, Effort, Preset},
    parse::Heads,
    record::Kind,
};

/// Each operation of decode attention over 8192 tokens, or 2048 on a CPU, in every element type of the device, with
/// the default digests and the paper's, whole and in 8 bits, recorded and plain. Its results are compared with those of untimed
/// calls, and for a head with the host's.
///
/// A record is [`Kind::Failed`] where a result is wrong. The first ones are what memory gives.
///
/// # Errors
///
/// When the device fails before anything is measured.
pub fn check(target: &Target) -> Result<Vec<Record>, BenchError> {
    let mut rows = Rows::new(target, Output::Silent, Kind::Attention);
    let context = if target.is_gpu() { 8192 } else { 2048 };
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    for dtype in dtypes
        .into_iter()
        .filter(|&d| target.device().supports_dtype(d))
    {
        let options = AttentionOptions {
            shortest: None,
            preset: Preset::Target,
            batch: vec![1],
            heads: vec![Heads { query: 8, kv: 2 }],
            head_dim: vec![128],
            contexts: vec![context],
            budgets: vec![context / 8],
            page_sizes: vec![PagedKvCacheConfig::PAGE_SIZE],
            dtype: Some(dtype),
            digest: vec![DigestKind::default(), DigestKind::MinMax],
            digests: DigestStorage::ALL.to_vec(),
            kv_cache: vec![KvStorage::Full],
            only: Vec::new(),
            launch: match target.is_gpu() {
                true => vec![Launch::Graph, Launch::Plain],
                false => vec![Launch::Plain],
            },
            effort: Effort {
                memory_limit: Some(1 << 30),
                minutes: None,
                rounds: 3,
                round_ms: 2,
            },
        };
        match attention::run(&options, target, &mut rows) {
            // They are among the records.
            Ok(()) | Err(BenchError::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rows.into_records())
}
