//! The results of a run, printed as they come.

use std::{
    any::Any,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use jiff::{Timestamp, Unit};
use serde::Serialize;

use crate::{BenchError, Record, Target, record::Kind, table::Table};

/// What all lines of a run share.
#[derive(Clone, Debug, Serialize)]
struct Environment {
    implementation: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
    date: String,
    device: String,
    backend: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    environment: &'a Environment,
    #[serde(flatten)]
    record: &'a Record,
}

/// The form in which results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Aligned columns.
    Table,
    /// A JSON object per line.
    Json,
    /// Nothing: whoever measures takes the records.
    Silent,
}

/// The results of a run, printed on stdout as they come.
#[derive(Debug)]
pub(crate) struct Rows {
    environment: Environment,
    output: Output,
    table: Table,
    copy_gb_per_s: Option<f64>,
    records: Vec<Record>,
}

/// What a panic said.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

impl Rows {
    /// No results yet, of those that will be of a kind.
    pub(crate) fn new(target: &Target, output: Output, kind: Kind) -> Self {
        let now = Timestamp::now();
        let now = now.round(Unit::Second).unwrap_or(now);
        Self {
            environment: Environment {
                implementation: "quest-burn",
                version: env!("CARGO_PKG_VERSION"),
                commit: option_env!("QUEST_BENCH_COMMIT"),
                date: now.to_string(),
                device: target.name().to_owned(),
                backend: target.backend().to_owned(),
                driver: target.driver().map(str::to_owned),
            },
            output,
            table: Table::new(kind),
            copy_gb_per_s: None,
            records: Vec::new(),
        }
    }

    /// The results so far.
    #[cfg(feature = "plot")]
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The results of the whole run.
    pub(crate) fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// What later results are compared with.
    pub(crate) fn set_copy_bandwidth(&mut self, gb_per_s: f64) {
        self.copy_gb_per_s = Some(gb_per_s);
    }

    /// Runs a measurement that pushes its own results. One that fails, or panics as Burn does where
    /// memory runs out, is recorded as failed with its reason and does not keep others from running.
    ///
    /// # Errors
    ///
    /// When the request is bad or stdout is closed.
    pub(crate) fn attempt(
        &mut self,
        mut failed: Record,
        measurement: impl FnOnce(&mut Self) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let outcome = catch_unwind(AssertUnwindSafe(|| measurement(self)));
        let reason = match outcome {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if error.is_bad_request() => return Err(error),
            Ok(Err(error @ (BenchError::StdoutClosed | BenchError::Write { .. }))) => {
                return Err(error);
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => message_of(panic.as_ref()),
        };
        failed.kind = Kind::Failed;
        failed.reason = Some(reason.split_whitespace().collect::<Vec<_>>().join(" "));
        self.push(failed)
    }

    /// Says how many measurements failed.
    ///
    /// # Errors
    ///
    /// When some did.
    pub(crate) fn finish(&self) -> Result<(), BenchError> {
        let failed = self.records.iter().filter(|r| r.kind == Kind::Failed);
        match failed.count() {
            0 => Ok(()),
            failed => Err(BenchError::Failed { failed }),
        }
    }

    /// Adds a result, with its bandwidth and share of the copy bandwidth, and prints it.
    ///
    /// # Errors
    ///
    /// When stdout is closed.
    pub(crate) fn push(&mut self, mut record: Record) -> Result<(), BenchError> {
        if let (Some(bytes), Some(timing)) = (record.bytes, record.timing) {
            let gb_per_s = bytes as f64 / timing.median_us / 1e3;
            record.gb_per_s = Some(gb_per_s);
            record.copy_share = self.copy_gb_per_s.map(|copy| gb_per_s / copy);
        }
        let mut text = match self.output {
            Output::Silent => {
                self.records.push(record);
                return Ok(());
            }
            Output::Json => {
                let line = Line {
                    environment: &self.environment,
                    record: &record,
                };
                serde_json::to_string(&line).expect("a record is plain data")
            }
            Output::Table if self.records.is_empty() => {
                format!("{}\n{}", self.table.header(), self.table.row(&record))
            }
            Output::Table => self.table.row(&record),
        };
        text.push('\n');
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes());
        written
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => BenchError::StdoutClosed,
                _ => BenchError::Write {
                    path: "stdout".into(),
                    message: error.to_string(),
                },
            })?;
        self.records.push(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_that_fails_is_recorded_and_the_next_one_runs() {
        let target = Target::new(burn::tensor::Device::default(), "flex");
        let mut rows = Rows::new(&target, Output::Json, Kind::Attention);
        let wrong = || BenchError::Wrong {
            operation: "top_pages".into(),
            expected: "3".into(),
            found: "4".into(),
        };
        rows.attempt(Record::default(), |_| Err(wrong())).unwrap();
        rows.attempt(Record::default(), |_| panic!("out of memory"))
            .unwrap();
        rows.attempt(Record::default(), |rows| rows.push(Record::default()))
            .unwrap();
        let found = rows.records.iter().map(|r| (r.kind, r.reason.as_deref()));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                (Kind::Failed, Some("top_pages: expected 3, found 4")),
                (Kind::Failed, Some("out of memory")),
                (Kind::Skipped, None),
            ]
        );
        assert!(matches!(
            rows.finish(),
            Err(BenchError::Failed { failed: 2 })
        ));
        let bad = rows.attempt(Record::default(), |_| {
            Err(BenchError::Option {
                option: "--batch",
                expected: "1".into(),
                found: "0".into(),
            })
        });
        assert!(bad.unwrap_err().is_bad_request());
    }
}
