/// What an engine is at, and what it has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// Pages that hold nothing.
    pub free_pages: usize,
    /// Pages that no running sequence holds, kept for requests that begin alike.
    pub cached_pages: usize,
    /// Steps.
    pub steps: u64,
    /// Decode steps that were replays of a recording. A step of the engine has one decode step for each policy.
    pub recorded_steps: u64,
    /// Recordings that were made.
    pub recordings: u64,
    /// Decode steps that were launched kernel by kernel.
    pub plain_steps: u64,
    /// Tokens of prompts that were taken on, with those that were in the cache.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were in the cache.
    pub cached_tokens: u64,
    /// Tokens of answers.
    pub new_tokens: u64,
    /// Answers that reached their end.
    pub finished: u64,
    /// Answers that nobody waited for any more.
    pub cancelled: u64,
    /// Answers that failed.
    pub failed: u64,
    /// How often a sequence gave its pages up for an older one and was computed again.
    pub preemptions: u64,
}

impl Stats {
    /// Pages that running sequences hold.
    pub fn used_pages(&self) -> usize {
        self.pages - self.free_pages - self.cached_pages
    }
}
