//! What a measurement gives.

use serde::Serialize;

use crate::{Launch, Timing};

/// What a [`Record`] is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What the device's memory gives to a plain copy and a plain reduction.
    Bandwidth,
    /// One layer's decode attention, or a part of it.
    Attention,
    /// A decode step of a whole model.
    #[cfg(feature = "models")]
    Decode,
    /// The prompt of a whole model.
    #[cfg(feature = "models")]
    Prefill,
    /// What was asked for and not measured; [`Record::reason`] says why.
    #[default]
    Skipped,
    /// What was begun and gave no result, or a wrong one; [`Record::reason`] says why.
    Failed,
}

/// One measurement: a line of `--json`. What does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Record {
    /// What was measured.
    pub kind: Kind,
    /// The operation, or the policy of a whole step.
    pub operation: String,
    /// How the work reached the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
    /// Name of the model's shape, or its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Element type of the KV cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Element type of the weights, or the form of the projections' weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Kind of the page digests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'static str>,
    /// Numbers that the page digests are read in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digests: Option<&'static str>,
    /// Numbers that keys and values are kept in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<&'static str>,
    /// Sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Query heads of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_heads: Option<usize>,
    /// KV heads of a layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// Channels of a head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Tokens of a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<usize>,
    /// Tokens of each sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Tokens of the shortest sequence, where not all have those of the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortest: Option<usize>,
    /// Tokens that are attended to; absent where all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    /// Leading layers that attend to everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense_layers: Option<usize>,
    /// Tokens of a prompt that go through the model at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk: Option<usize>,
    /// Tokens that are drafted before they are verified, of lossless answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_tokens: Option<usize>,
    /// Share of the drafted tokens that dense attention took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_acceptance: Option<f64>,
    /// Tokens that a verifying pass gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_pass: Option<f64>,
    /// First tokens that are those of dense attention.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equal_tokens: Option<usize>,
    /// Bytes that must be read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Those bytes over the median time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// `gb_per_s` over the copy bandwidth of the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_share: Option<f64>,
    /// The times.
    #[serde(flatten)]
    pub timing: Option<Timing>,
    /// Tokens per second of all sequences together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Bytes that the inputs in turn hold together; what a last-level cache keeps of them is not
    /// read from memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotated_bytes: Option<u64>,
    /// Bytes of weights and KV cache, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_estimate: Option<u64>,
    /// Bytes that the device's allocator holds, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reserved: Option<u64>,
    /// Largest deviation of the timed result from the untimed one, over its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error: Option<f64>,
    /// Decode steps of an engine that were replays of a recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded_steps: Option<u64>,
    /// Decode steps of an engine that were launched kernel by kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_steps: Option<u64>,
    /// Recordings that an engine made meanwhile, whose time is in that of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recordings: Option<u64>,
    /// Why there is no measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Record {
    /// Query and KV heads, as `32:8`.
    pub(crate) fn heads(&self) -> Option<String> {
        let heads = self.n_heads.zip(self.n_kv_heads);
        heads.map(|(query, kv)| format!("{query}:{kv}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_apply_is_absent_from_a_line() {
        let record = Record {
            kind: Kind::Attention,
            operation: "page_scores".into(),
            launch: Some(Launch::Graph),
            context: Some(4096),
            timing: Some(Timing::of(vec![2.0])),
            ..Record::default()
        };
        let line = serde_json::to_value(&record).unwrap();
        let keys = line.as_object().unwrap().keys().collect::<Vec<_>>();
        assert_eq!(line["kind"], "attention");
        assert_eq!(line["launch"], "graph");
        assert_eq!(line["median_us"], 2.0);
        assert!(!keys.contains(&&"budget".to_owned()), "{keys:?}");
        let skipped = Record {
            reason: Some("no room".into()),
            ..Record::default()
        };
        let line = serde_json::to_value(&skipped).unwrap();
        assert_eq!(line["kind"], "skipped");
        assert!(line.get("median_us").is_none());
    }
}
