//! What is counted, in Prometheus' form. It is a page of text; a crate for it would turn on features of
//! `parking_lot`, which CubeCL and Burn are built on.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::backend::Stats;

/// What the server counts itself.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Requests by path and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    first_token: Histogram,
    between_tokens: Histogram,
}

/// Times, counted in buckets from a millisecond to two minutes.
#[derive(Debug, Default)]
struct Histogram(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    /// Times of at most 2^i milliseconds, those of lower buckets excepted; the last one has the rest.
    buckets: [u64; BUCKETS + 1],
    seconds: f64,
}

const BUCKETS: usize = 18;

impl Metrics {
    /// Counts a request that was answered.
    pub(crate) fn request(&self, path: &'static str, status: u16) {
        let requests = self.requests.lock();
        let mut requests = requests.unwrap_or_else(PoisonError::into_inner);
        *requests.entry((path, status)).or_default() += 1;
    }

    /// Counts the time from the arrival of a request to its first token.
    pub(crate) fn first_token(&self, time: Duration) {
        self.first_token.observe(time);
    }

    /// Counts the time between two tokens of an answer.
    pub(crate) fn between_tokens(&self, time: Duration) {
        self.between_tokens.observe(time);
    }

    /// All of it, with what the engine counts.
    pub(crate) fn text(&self, stats: &Stats) -> String {
        let mut out = String::new();
        self.write(&mut out, stats)
            .expect("a string takes any text");
        out
    }

    fn write(&self, out: &mut String, stats: &Stats) -> std::fmt::Result {
        head(
            out,
            "requests_total",
            "counter",
            "Requests by path and status",
        )?;
        let requests = self.requests.lock();
        let requests = requests.unwrap_or_else(PoisonError::into_inner);
        for ((path, status), n) in &*requests {
            writeln!(
                out,
                "quest_requests_total{{path=\"{path}\",status=\"{status}\"}} {n}"
            )?;
        }
        drop(requests);
        let about = "From the arrival of a request to its first token";
        self.first_token
            .write(out, "time_to_first_token_seconds", about)?;
        let about = "Between two tokens of an answer";
        self.between_tokens
            .write(out, "time_between_tokens_seconds", about)?;
        for (name, about, value) in [
            ("running_sequences", "Sequences that run", stats.running),
            ("waiting_requests", "Requests that wait", stats.waiting),
            ("pages", "Pages of the KV cache", stats.pages),
            (
                "used_pages",
                "Pages that running sequences hold",
                stats.used_pages,
            ),
            (
                "cached_pages",
                "Pages kept for requests that begin alike",
                stats.cached_pages,
            ),
        ] {
            head(out, name, "gauge", about)?;
            writeln!(out, "quest_{name} {value}")?;
        }
        for (name, about, value) in [
            ("steps_total", "Steps of the engine", stats.steps),
            (
                "recorded_steps_total",
                "Decode steps that were replays of a recording",
                stats.recorded_steps,
            ),
            (
                "plain_steps_total",
                "Decode steps that were launched kernel by kernel",
                stats.plain_steps,
            ),
            (
                "prompt_tokens_total",
                "Tokens of prompts",
                stats.prompt_tokens,
            ),
            (
                "cached_tokens_total",
                "Those that were in the cache",
                stats.cached_tokens,
            ),
            ("new_tokens_total", "Tokens of answers", stats.new_tokens),
            (
                "finished_total",
                "Answers that reached their end",
                stats.finished,
            ),
            (
                "cancelled_total",
                "Answers that were dropped before their end, by their clients or at a stop text",
                stats.cancelled,
            ),
            ("failed_total", "Answers that failed", stats.failed),
            (
                "preemptions_total",
                "Sequences that were computed again",
                stats.preemptions,
            ),
        ] {
            head(out, name, "counter", about)?;
            writeln!(out, "quest_{name} {value}")?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, about: &str) -> std::fmt::Result {
    writeln!(
        out,
        "# HELP quest_{name} {about}\n# TYPE quest_{name} {kind}"
    )
}

impl Histogram {
    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let mut bounds = (0..BUCKETS).map(bound);
        let bucket = bounds.position(|bound| seconds <= bound).unwrap_or(BUCKETS);
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.buckets[bucket] += 1;
        times.seconds += seconds;
    }

    fn write(&self, out: &mut String, name: &str, about: &str) -> std::fmt::Result {
        head(out, name, "histogram", about)?;
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut n = 0;
        for (i, bucket) in times.buckets.iter().enumerate() {
            n += bucket;
            match i {
                BUCKETS => writeln!(out, "quest_{name}_bucket{{le=\"+Inf\"}} {n}")?,
                i => writeln!(out, "quest_{name}_bucket{{le=\"{}\"}} {n}", bound(i))?,
            }
        }
        writeln!(
            out,
            "quest_{name}_sum {}\nquest_{name}_count {n}",
            times.seconds
        )
    }
}

/// The longest time of a bucket, in seconds.
fn bound(bucket: usize) -> f64 {
    0.001 * (1_u64 << bucket) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_in_the_buckets_that_hold_them() {
        let metrics = Metrics::default();
        for ms in [0, 1, 3, 1_000_000] {
            metrics.first_token(Duration::from_millis(ms));
        }
        let text = metrics.text(&Stats::default());
        for line in [
            "quest_time_to_first_token_seconds_bucket{le=\"0.001\"} 2",
            "quest_time_to_first_token_seconds_bucket{le=\"0.002\"} 2",
            "quest_time_to_first_token_seconds_bucket{le=\"0.004\"} 3",
            "quest_time_to_first_token_seconds_bucket{le=\"+Inf\"} 4",
            "quest_time_to_first_token_seconds_sum 1000.004",
            "quest_time_to_first_token_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
