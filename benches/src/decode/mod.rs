//! A decode step of a whole model, dense and with Quest, at given contexts.

mod bytes;
mod options;
mod session;

use std::time::Instant;

pub(crate) use options::DecodeOptions;
use quest_burn::policy::PolicyKind;

use crate::{
    BenchError, Record, Rows, Target, bandwidth, memory,
    model::{LoadedModel, ModelPlan},
    record::Kind,
};
use bytes::StepBytes;
use session::Session;

/// Measures what the options ask for, and prints each result as it comes: for each batch and
/// context a dense row, then a row per budget.
///
/// # Errors
///
/// When an option cannot be served, the device fails, or a timed step gives wrong logits.
pub(crate) fn run(
    options: &DecodeOptions,
    target: &Target,
    rows: &mut Rows,
) -> Result<(), BenchError> {
    let begin = Instant::now();
    options.check()?;
    let time_limit = options.effort.time_limit()?;
    let limit = memory::limit(target, options.effort.memory_limit);
    let stopwatch = options.effort.stopwatch();
    let plan = ModelPlan::new(&options.model, target, limit)?;
    let options = &DecodeOptions {
        launch: target.launches(&options.launch)?,
        ..options.clone()
    };
    bandwidth::measure(target, &stopwatch, limit, rows)?;
    target.device().memory_cleanup();
    let loaded = plan.load(target)?;
    for &batch in &options.cache_options.batch {
        for &context in &options.contexts {
            let cache = options.cache_bytes(&loaded, batch, context);
            let needed = loaded.weight_bytes().saturating_add(cache);
            let is_late = time_limit.is_some_and(|limit| begin.elapsed() >= limit);
            let reason = if is_late {
                format!(
                    "{} minutes are over",
                    options.effort.minutes.unwrap_or_default()
                )
            } else if needed > limit {
                format!("expected {needed} bytes of memory for weights and KV cache, found {limit}")
            } else {
                let failed = loaded.record(Kind::Failed, "all", batch, context);
                let size = (batch, context);
                rows.attempt(failed, |rows| measure(options, &loaded, target, size, rows))?;
                target.device().memory_cleanup();
                continue;
            };
            rows.push(Record {
                reason: Some(reason),
                ..loaded.record(Kind::Skipped, "all", batch, context)
            })?;
        }
    }
    rows.finish()
}

fn measure(
    options: &DecodeOptions,
    loaded: &LoadedModel,
    target: &Target,
    (batch, context): (usize, usize),
    rows: &mut Rows,
) -> Result<(), BenchError> {
    eprintln!("{}: batch {batch}, context {context}", loaded.name);
    let mut session = Session::new(options, loaded, target, batch, context)?;
    let budgets = options.quest.budgets.iter();
    let sparse =
        budgets.flat_map(|&budget| options.policies.iter().map(move |&p| (p, Some(budget))));
    for (policy, budget) in [(PolicyKind::Dense, None)].into_iter().chain(sparse) {
        let mut record = Record {
            budget,
            page_size: Some(options.cache_options.page_size),
            digest: Some(options.digest.name()),
            digests: Some(options.digests.name()),
            kv_cache: Some(options.kv_cache.name()),
            dense_layers: budget.map(|_| options.quest.dense_layers),
            ..loaded.record(Kind::Decode, &policy.to_string(), batch, context)
        };
        if budget.is_some_and(|budget| budget >= context) {
            record.kind = Kind::Skipped;
            record.reason = Some("the budget covers the context".into());
            rows.push(record)?;
            continue;
        }
        let bytes = StepBytes::of(options, loaded, (batch, context), policy, budget);
        for &launch in &options.launch {
            record.launch = Some(launch);
            let Some(steps) = session.time(policy, budget, launch)? else {
                rows.push(Record {
                    kind: Kind::Skipped,
                    reason: Some("the device recorded no graph".into()),
                    ..record.clone()
                })?;
                continue;
            };
            rows.push(Record {
                bytes: Some(bytes.total()),
                tokens_per_s: Some(batch as f64 * 1e6 / steps.timing.median_us),
                timing: Some(steps.timing),
                max_error: Some(steps.max_error),
                memory_estimate: Some(
                    loaded.weight_bytes() + options.cache_bytes(loaded, batch, context),
                ),
                memory_reserved: reserved(target),
                ..record.clone()
            })?;
        }
    }
    Ok(())
}

/// Bytes that the allocator holds.
pub(crate) fn reserved(target: &Target) -> Option<u64> {
    let usage = target.device().memory_pool_usage();
    usage.map(|usage| usage.bytes_reserved)
}
