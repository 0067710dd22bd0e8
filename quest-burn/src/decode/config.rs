use burn::config::Config;

/// How a [`DecodeGraph`](super::DecodeGraph) records a step.
#[derive(Config, Debug, PartialEq, Eq)]
pub struct DecodeGraphConfig {
    /// Tokens of each sequence that one recording is good for. Their pages are taken from the pool
    /// when the step is recorded, and launches are sized for them; where the pool or the sequence
    /// has less room, a recording is good for fewer.
    #[config(default = 1024)]
    pub tokens_per_recording: usize,
    /// Whether the step is recorded where the device can; otherwise the model runs step by step.
    #[config(default = true)]
    pub capture: bool,
}
