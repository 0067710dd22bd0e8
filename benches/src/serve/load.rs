use serde::Serialize;

use super::times::Times;

/// What a table of measurements has.
pub(super) const HEADING: [&str; 12] = [
    "policy",
    "clients",
    "prompt",
    "requests/s",
    "tokens/s",
    "first p50",
    "first p99",
    "next p50",
    "next p99",
    "longest",
    "at once",
    "refused",
];

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Load {
    pub kind: &'static str,
    pub url: String,
    pub model: String,
    pub policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    pub clients: usize,
    pub requests: usize,
    /// Requests that the server had no room for.
    pub refused: usize,
    pub prompt_tokens: u64,
    pub new_tokens: u64,
    pub requests_per_s: f64,
    pub tokens_per_s: f64,
    pub first_token_ms: Times,
    /// None where each answer came in one delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub between_deliveries_ms: Option<Times>,
    pub tokens_per_delivery: f64,
}

impl Load {
    /// Under the heading.
    pub(super) fn cells(&self) -> Vec<String> {
        let between = |of: fn(Times) -> f64| match self.between_deliveries_ms {
            Some(times) => format!("{:.1} ms", of(times)),
            None => "-".to_owned(),
        };
        vec![
            self.policy.clone(),
            self.clients.to_string(),
            self.prompt_tokens.to_string(),
            format!("{:.2}", self.requests_per_s),
            format!("{:.1}", self.tokens_per_s),
            format!("{:.1} ms", self.first_token_ms.p50),
            format!("{:.1} ms", self.first_token_ms.p99),
            between(|times| times.p50),
            between(|times| times.p99),
            between(|times| times.most),
            format!("{:.1}", self.tokens_per_delivery),
            self.refused.to_string(),
        ]
    }
}
