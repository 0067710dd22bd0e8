//! LongBench's files: a folder with `<task>.jsonl`, one JSON object per line.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::Task;
use crate::results::sha256;

/// One question with its context.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// The question; empty where the task says it all.
    pub input: String,
    /// The long text.
    pub context: String,
    /// Reference answers, one at least.
    pub answers: Vec<String>,
    /// Words of input, context and answers, as LongBench counts them.
    pub length: usize,
    /// The task that it belongs to.
    pub dataset: String,
    /// `en` for all tasks here.
    pub language: String,
    /// The classes of a classification task, which none of ours is.
    pub all_classes: Option<Vec<String>>,
    /// What tells it from all others.
    #[serde(rename = "_id")]
    pub id: String,
}

/// The records of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskData {
    /// The task.
    pub task: Task,
    /// Its records, in order.
    pub records: Vec<Record>,
    /// SHA-256 of the file that they are from, in hexadecimal digits.
    pub sha256: String,
}

/// Why a task's records could not be read.
#[derive(Error, Debug)]
pub enum DatasetError {
    /// There is no such folder.
    #[error("{}: expected a folder with LongBench's files, found {found}", path.display())]
    Folder {
        /// What was given.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The task's file cannot be read.
    #[error("{}: expected a readable file of LongBench's task {task}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The task.
        task: Task,
        /// Why not.
        source: io::Error,
    },
    /// A line is not a record.
    #[error(
        "{}:{line}: expected a JSON object with input, context, answers, length, dataset, \
         language, all_classes and _id, found {found}", path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        found: String,
    },
    /// A record cannot be scored.
    #[error("{}:{line}: expected at least one answer, found none", path.display())]
    Answers {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A record belongs to another task.
    #[error("{}:{line}: expected a record of the dataset {task}, found {found}", path.display())]
    Task {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The task of the file.
        task: Task,
        /// The dataset of the record.
        found: String,
    },
    /// Two records cannot be told apart.
    #[error("{}:{line}: expected an _id of its own, found {id} as in line {first}", path.display())]
    Repeated {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The id.
        id: String,
        /// The line that has it too.
        first: usize,
    },
    /// There is nothing to do.
    #[error("{}: expected at least one record, found none", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl TaskData {
    /// Reads a task from LongBench's folder: its first `limit` records where a limit is given.
    ///
    /// # Errors
    ///
    /// When there is no such folder or file, or a line of those that are taken is not a record of
    /// the task; the message names file and line.
    pub fn read(folder: &Path, task: Task, limit: Option<usize>) -> Result<Self, DatasetError> {
        if !folder.is_dir() {
            return Err(DatasetError::Folder {
                path: folder.to_owned(),
                found: match folder.exists() {
                    true => "a file",
                    false => "nothing",
                },
            });
        }
        let path = folder.join(format!("{task}.jsonl"));
        let bytes = fs::read(&path).map_err(|source| DatasetError::Read {
            path: path.clone(),
            task,
            source,
        })?;
        let records = parse_lines(&bytes, &path, task, limit)?;
        Ok(Self {
            task,
            records,
            sha256: sha256(bytes),
        })
    }
}

fn parse_lines(
    bytes: &[u8],
    path: &Path,
    task: Task,
    limit: Option<usize>,
) -> Result<Vec<Record>, DatasetError> {
    let lines = bytes.split(|&byte| byte == b'\n').zip(1..);
    let lines = lines.filter(|(line, _)| !line.trim_ascii().is_empty());
    let mut records = Vec::new();
    let mut line_of = HashMap::new();
    for (bytes, line) in lines.take(limit.unwrap_or(usize::MAX)) {
        let record = parse(bytes, path, line, task)?;
        if let Some(first) = line_of.insert(record.id.clone(), line) {
            return Err(DatasetError::Repeated {
                path: path.to_owned(),
                line,
                id: record.id,
                first,
            });
        }
        records.push(record);
    }
    match records.is_empty() {
        true => Err(DatasetError::Empty {
            path: path.to_owned(),
        }),
        false => Ok(records),
    }
}

fn parse(bytes: &[u8], path: &Path, line: usize, task: Task) -> Result<Record, DatasetError> {
    let path = path.to_owned();
    let record: Record = match serde_json::from_slice(bytes) {
        Ok(record) => record,
        Err(error) => {
            // The parser saw one line and calls it the first.
            let column = error.column();
            let found = error.to_string();
            let what = found.split(" at line 1").next().unwrap_or(&found);
            return Err(DatasetError::Record {
                path,
                line,
                found: format!("{what} at column {column}"),
            });
        }
    };
    if record.dataset != task.name() {
        return Err(DatasetError::Task {
            path,
            line,
            task,
            found: record.dataset,
        });
    }
    if record.answers.is_empty() {
        return Err(DatasetError::Answers { path, line });
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;

    fn record(id: &str) -> Value {
        json!({
            "input": "Who?", "context": "Ada did.", "answers": ["Ada", "Lovelace"], "length": 4,
            "dataset": "qasper", "language": "en", "all_classes": null, "_id": id,
        })
    }

    fn folder(content: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("qasper.jsonl"), content).unwrap();
        folder
    }

    #[track_caller]
    fn refused(content: &str) -> String {
        let folder = folder(content);
        let error = TaskData::read(folder.path(), Task::Qasper, None).unwrap_err();
        let message = error.to_string();
        let prefix = folder.path().display().to_string();
        message.strip_prefix(&prefix).unwrap().to_owned()
    }

    #[test]
    fn records_are_read_in_order_up_to_the_limit() {
        let mut other = record("2");
        other["all_classes"] = json!(["one"]);
        other["added later"] = json!(7);
        let folder = folder(&format!("{}\n\n{other}\r\nnot read", record("1")));
        let data = TaskData::read(folder.path(), Task::Qasper, Some(2)).unwrap();
        assert_eq!((data.task, data.sha256.len()), (Task::Qasper, 64));
        let records = data.records;
        assert_eq!(records.len(), 2);
        assert_eq!(
            records[0],
            Record {
                input: "Who?".to_owned(),
                context: "Ada did.".to_owned(),
                answers: vec!["Ada".to_owned(), "Lovelace".to_owned()],
                length: 4,
                dataset: "qasper".to_owned(),
                language: "en".to_owned(),
                all_classes: None,
                id: "1".to_owned(),
            }
        );
        assert_eq!(records[1].all_classes, Some(vec!["one".to_owned()]));
        assert_eq!(records[1].id, "2");
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let good = record("1").to_string();
        let error = refused(&format!("{good}\n{}\n", &good[..good.len() / 2]));
        assert!(error.starts_with("/qasper.jsonl:2: expected a JSON object with input"));
        assert!(error.contains("found EOF while parsing"), "{error}");
        assert!(!error.contains("line 1"), "{error}");

        let mut no_answers = record("2");
        no_answers.as_object_mut().unwrap().remove("answers");
        let error = refused(&format!("\n{good}\n{no_answers}"));
        assert!(error.starts_with("/qasper.jsonl:3: "), "{error}");
        assert!(error.contains("found missing field `answers`"), "{error}");

        let error = refused("[1, 2]");
        assert!(error.contains(":1: "), "{error}");
        let error = refused("{\"input\": \"\u{7f}\"} {}");
        assert!(error.contains(":1: "), "{error}");
    }

    #[test]
    fn a_record_that_cannot_be_scored_is_named() {
        let good = record("1");
        let mut empty = record("2");
        empty["answers"] = json!([]);
        assert_eq!(
            refused(&format!("{good}\n{empty}")),
            "/qasper.jsonl:2: expected at least one answer, found none"
        );
        let mut other = record("2");
        other["dataset"] = json!("hotpotqa");
        assert_eq!(
            refused(&format!("{good}\n{other}")),
            "/qasper.jsonl:2: expected a record of the dataset qasper, found hotpotqa"
        );
        assert_eq!(
            refused(&format!("{good}\n{}\n{good}", record("2"))),
            "/qasper.jsonl:3: expected an _id of its own, found 1 as in line 1"
        );
        assert_eq!(
            refused("\n"),
            "/qasper.jsonl: expected at least one record, found none"
        );
    }

    #[test]
    fn absent_folders_and_files_are_named() {
        let folder = folder("");
        let error = TaskData::read(&folder.path().join("data"), Task::Qasper, None).unwrap_err();
        assert!(error.to_string().ends_with("found nothing"), "{error}");
        let file = folder.path().join("qasper.jsonl");
        let error = TaskData::read(&file, Task::Qasper, None).unwrap_err();
        assert!(error.to_string().ends_with("found a file"), "{error}");
        let error = TaskData::read(folder.path(), Task::GovReport, None).unwrap_err();
        assert!(matches!(error, DatasetError::Read { .. }));
        let message = error.to_string();
        assert!(message.ends_with(
            "gov_report.jsonl: expected a readable file of LongBench's task gov_report"
        ));
    }
}
