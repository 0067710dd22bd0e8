use super::{
    AttentionOptions, Operation,
    bytes::bytes,
    check,
    grid::Shape,
    problem::{Computed, Problem},
};
use crate::{
    BenchError, Launch, Record, Rows, Target,
    record::Kind,
    timing::{Stopwatch, Timed},
};

/// Bytes that the inputs in turn must exceed together, several times a last-level cache.
const ROTATED_BYTES: u64 = 256 << 20;
/// Inputs in turn: more would only make recordings longer.
const MAX_ROTATION: u64 = 64;
/// Outputs that are alive at once.
const HELD_BYTES: u64 = 256 << 20;

/// Measures one shape after another.
pub(super) struct Measurement<'a> {
    pub options: &'a AttentionOptions,
    pub target: &'a Target,
    pub stopwatch: Stopwatch,
    pub limit: u64,
}

/// Bytes that a shape cannot be measured without: one cache, and room for the check of its
/// results.
pub(super) fn least_bytes(shape: &Shape) -> u64 {
    let cache = shape.cache(1).bytes(shape.dtype);
    cache.saturating_add(cache / 8)
}

impl Measurement<'_> {
    pub(super) fn run(&self, shape: &Shape, rows: &mut Rows) -> Result<(), BenchError> {
        let budgets = self.options.budgets.iter().copied();
        let (budgets, covered) =
            budgets.partition::<Vec<_>, _>(|budget| budget / shape.page_size < shape.n_pages());
        let wanted = |operation: &Operation| {
            let only = &self.options.only;
            only.is_empty() || only.contains(operation)
        };
        let wanted = Operation::ALL.into_iter().filter(wanted);
        let wanted = wanted.collect::<Vec<_>>();

        let all_budgets = budgets.first().copied().unwrap_or(shape.context);
        let needed = wanted.iter().filter(|&&o| o != Operation::TopPages);
        let rotations = needed.map(|&operation| rotation(shape, operation, all_budgets));
        let n_entries = rotations.max().unwrap_or(2);
        let cache_bytes = shape.cache(1).bytes(shape.dtype);
        let room = (self.limit - cache_bytes / 8) / cache_bytes;
        let n_caches = n_entries.min(room.max(1) as usize);
        let mut problem = Problem::new(*shape, n_caches, n_entries, self.target)?;

        for &operation in wanted.iter().filter(|o| !o.has_budget()) {
            self.operation(&mut problem, operation, None, rows)?;
        }
        for budget in budgets {
            problem.choose(budget);
            for &operation in wanted.iter().filter(|o| o.has_budget()) {
                self.operation(&mut problem, operation, Some(budget), rows)?;
            }
        }
        if wanted.iter().any(|operation| operation.has_budget()) {
            for budget in covered {
                let mut record = shape.record(Kind::Skipped, "quest".into(), Some(budget));
                record.reason = Some("the budget covers the context".into());
                rows.push(record)?;
            }
        }
        Ok(())
    }

    fn operation(
        &self,
        problem: &mut Problem,
        operation: Operation,
        budget: Option<usize>,
        rows: &mut Rows,
    ) -> Result<(), BenchError> {
        let shape = problem.shape;
        let tokens = budget.unwrap_or(shape.context);
        let bytes = bytes(&shape, operation, tokens);
        let rotation = rotation(&shape, operation, tokens).min(problem.entries.len());
        let in_turn = rotation.min(problem.caches.n_layers()) as u64;
        for &launch in &self.options.launch {
            let record = Record {
                launch: Some(launch),
                ..shape.record(Kind::Attention, operation.name(), budget)
            };
            rows.attempt(record.clone(), |rows| {
                let timed = self.time(problem, operation, tokens, rotation, launch)?;
                let Some(timed) = timed else {
                    return rows.push(Record {
                        kind: Kind::Skipped,
                        reason: Some("the device recorded no graph".into()),
                        ..record
                    });
                };
                let timing = timed.timing;
                let max_error =
                    check::outputs(problem, operation, tokens, rotation, timed.outputs)?;
                rows.push(Record {
                    bytes: Some(bytes),
                    rotated_bytes: Some(bytes * in_turn),
                    timing: Some(timing),
                    max_error: Some(max_error),
                    ..record
                })
            })?;
        }
        Ok(())
    }

    fn time(
        &self,
        problem: &mut Problem,
        operation: Operation,
        tokens: usize,
        rotation: usize,
        launch: Launch,
    ) -> Result<Option<Timed<Computed>>, BenchError> {
        let device = self.target.device();
        let held = HELD_BYTES / output_bytes(&problem.shape, operation, tokens).max(1);
        let call = |call| {
            let entry = problem.entry_of(call, rotation);
            problem.compute(operation, entry, tokens)
        };
        match launch {
            Launch::Plain => {
                let held = held.clamp(1, 2000) as usize;
                self.stopwatch.plain(device, rotation, held, call).map(Some)
            }
            Launch::Graph => self.stopwatch.graph(device, rotation, call),
        }
    }
}

/// Inputs in turn, so that a last-level cache does not serve an operation.
fn rotation(shape: &Shape, operation: Operation, tokens: usize) -> usize {
    let bytes = bytes(shape, operation, tokens).max(1);
    ROTATED_BYTES.div_ceil(bytes).clamp(2, MAX_ROTATION) as usize
}

fn output_bytes(shape: &Shape, operation: Operation, tokens: usize) -> u64 {
    let heads = shape.batch * shape.heads.kv;
    let bytes = match operation {
        Operation::Append => 0,
        Operation::PageScores => heads * shape.n_pages() * size_of::<f32>(),
        Operation::TopPages => heads * (tokens / shape.page_size) * size_of::<i32>(),
        _ => shape.batch * shape.heads.query * shape.head_dim * shape.dtype.size(),
    };
    bytes as u64
}
