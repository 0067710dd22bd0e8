//! What the program prints: one JSON object on stdout, progress on stderr.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Prints a line on stdout, at once.
pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    print_part(line)?;
    print_part("\n")
}

/// Prints a part of a line on stdout, at once.
pub(crate) fn print_part(part: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(part.as_bytes());
    let flushed = written.and_then(|()| stdout.flush());
    flushed.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::StdoutClosed,
        _ => Failure::internal(anyhow::Error::new(error).context("stdout")),
    })
}

/// Prints a value as one line of JSON on stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print_line(&serde_json::to_string(value).map_err(Failure::internal)?)
}

/// What a [`Progress`] counts.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Bytes,
    Tokens,
    Rows,
}

/// Long work on stderr: a bar on a terminal, elsewhere a line now and then.
pub(crate) struct Progress {
    label: &'static str,
    unit: Unit,
    total: u64,
    /// Progress within a step.
    note: String,
    bar: Option<ProgressBar>,
    reported: Instant,
}

impl Progress {
    /// Between two lines where there is no terminal. Short work needs none.
    const INTERVAL: Duration = Duration::from_secs(10);

    pub(crate) fn new(label: &'static str, unit: Unit, total: u64) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let template = match unit {
                Unit::Bytes => "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {eta}",
                Unit::Tokens => "{msg} [{wide_bar}] {pos}/{len} tokens {eta}",
                Unit::Rows => "{msg} [{wide_bar}] {pos}/{len} {eta}",
            };
            let style = ProgressStyle::with_template(template).expect("the templates are valid");
            ProgressBar::new(total)
                .with_style(style.progress_chars("=> "))
                .with_message(label)
        });
        Self {
            label,
            unit,
            total,
            note: String::new(),
            bar,
            reported: Instant::now(),
        }
    }

    /// Notes the progress within a step, shown from the next [`set`](Self::set) on.
    pub(crate) fn note(&mut self, note: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} {note}", self.label));
        }
        self.note = note;
    }

    pub(crate) fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.reported.elapsed() >= Self::INTERVAL {
            self.reported = Instant::now();
            let done = match self.unit {
                Unit::Bytes => BinaryBytes(done).to_string(),
                Unit::Tokens | Unit::Rows => done.to_string(),
            };
            let total = match self.unit {
                Unit::Bytes => BinaryBytes(self.total).to_string(),
                Unit::Tokens => format!("{} tokens", self.total),
                Unit::Rows => self.total.to_string(),
            };
            let note = if self.note.is_empty() { "" } else { ", " };
            eprintln!("{}: {done} of {total}{note}{}", self.label, self.note);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A rate for people.
pub(crate) fn per_second(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1} tokens/s"))
}
