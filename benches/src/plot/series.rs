//! Which results one line goes through.

use std::collections::BTreeMap;

use crate::{Launch, Record};

/// The points of one line: tokens of context, milliseconds.
pub(super) type Series = Vec<(f64, f64)>;

/// What a label says of a result, where several values occur.
type Setting = fn(&Record) -> Option<String>;

const SETTINGS: [(&str, Setting); 12] = [
    ("model", |r| r.model.clone()),
    ("dtype", |r| r.dtype.clone()),
    ("weights", |r| r.weights.clone()),
    ("digest", |r| r.digest.map(str::to_owned)),
    ("digests", |r| r.digests.map(str::to_owned)),
    ("KV cache", |r| r.kv_cache.map(str::to_owned)),
    ("batch", |r| shown(r.batch)),
    ("heads", Record::heads),
    ("head dim", |r| shown(r.head_dim)),
    ("page", |r| shown(r.page_size)),
    ("dense layers", |r| shown(r.dense_layers)),
    ("chunk", |r| shown(r.chunk)),
];

fn shown(number: Option<usize>) -> Option<String> {
    number.map(|number| number.to_string())
}

/// The lines by their labels: one for each operation, budget and kind of launch, and for each value
/// of a setting that is not the same in all results.
pub(super) fn series(records: &[Record]) -> BTreeMap<String, Series> {
    let drawn = records.iter().filter_map(|record| {
        let (context, timing) = (record.context?, record.timing?);
        Some((record, (context as f64, timing.median_us / 1e3)))
    });
    let drawn = drawn.collect::<Vec<_>>();
    let several = |setting: Setting| {
        let mut values = drawn.iter().filter_map(|(record, _)| setting(record));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let settings = SETTINGS.into_iter().filter(|(_, value)| several(*value));
    let settings = settings.collect::<Vec<_>>();
    let mut lines = BTreeMap::<String, Series>::new();
    for (record, point) in drawn {
        let mut label = record.operation.clone();
        if let Some(budget) = record.budget {
            label += &format!(", budget {budget}");
        }
        for (name, value) in &settings {
            if let Some(value) = value(record) {
                label += &format!(", {name} {value}");
            }
        }
        if record.launch == Some(Launch::Graph) {
            label += ", graph";
        }
        lines.entry(label).or_default().push(point);
    }
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Timing;

    pub(crate) fn record(
        operation: &str,
        budget: Option<usize>,
        context: usize,
        us: f64,
    ) -> Record {
        Record {
            operation: operation.into(),
            budget,
            context: Some(context),
            timing: Some(Timing::of(vec![us])),
            ..Record::default()
        }
    }

    pub(crate) fn dense_and_quest() -> [Record; 3] {
        [
            record("dense", None, 8192, 4000.0),
            record("dense", None, 4096, 2000.0),
            record("quest", Some(2048), 8192, 1000.0),
        ]
    }

    #[test]
    fn a_line_goes_through_the_contexts_of_each_operation_and_budget() {
        let lines = series(&dense_and_quest());
        assert_eq!(lines["dense"], [(4096.0, 2.0), (8192.0, 4.0)]);
        assert_eq!(lines["quest, budget 2048"], [(8192.0, 1.0)]);
    }

    #[test]
    fn results_that_differ_in_any_setting_are_on_different_lines() {
        let first = Record {
            model: Some("tiny".into()),
            dtype: Some("f16".into()),
            weights: Some("f16".into()),
            digest: Some("min-max"),
            digests: Some("full"),
            kv_cache: Some("full"),
            batch: Some(1),
            n_heads: Some(32),
            n_kv_heads: Some(8),
            head_dim: Some(128),
            page_size: Some(16),
            dense_layers: Some(2),
            chunk: Some(2048),
            launch: Some(Launch::Plain),
            ..record("quest", Some(2048), 8192, 1000.0)
        };
        type Change = fn(&mut Record);
        let changes: [(Change, &str); 15] = [
            (|r| r.model = Some("mid".into()), "model mid"),
            (|r| r.dtype = Some("f32".into()), "dtype f32"),
            (|r| r.weights = Some("int4".into()), "weights int4"),
            (|r| r.digest = Some("mean"), "digest mean"),
            (|r| r.digests = Some("int8"), "digests int8"),
            (|r| r.kv_cache = Some("int8"), "KV cache int8"),
            (|r| r.batch = Some(4), "batch 4"),
            (|r| r.n_heads = Some(16), "heads 16:8"),
            (|r| r.n_kv_heads = Some(32), "heads 32:32"),
            (|r| r.head_dim = Some(64), "head dim 64"),
            (|r| r.page_size = Some(32), "page 32"),
            (|r| r.dense_layers = Some(0), "dense layers 0"),
            (|r| r.chunk = Some(512), "chunk 512"),
            (|r| r.budget = Some(512), "budget 512"),
            (|r| r.launch = Some(Launch::Graph), "graph"),
        ];
        for (change, label) in changes {
            let mut other = first.clone();
            change(&mut other);
            let lines = series(&[first.clone(), other]);
            let labels = lines.keys().filter(|name| name.contains(label));
            assert_eq!((lines.len(), labels.count()), (2, 1), "{label}: {lines:?}");
        }
    }

    #[test]
    fn labels_leave_out_what_is_the_same_in_all_that_is_drawn() {
        let f16 = Record {
            dtype: Some("f16".into()),
            ..record("dense", None, 8192, 1000.0)
        };
        let bandwidth = Record {
            dtype: Some("f32".into()),
            context: None,
            ..f16.clone()
        };
        let lines = series(&[bandwidth, f16]);
        assert!(lines.keys().eq(["dense"]), "{lines:?}");
    }
}
