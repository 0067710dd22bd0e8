use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use super::RunInfo;

/// The rows of a run, kept in a file as they are made, so that an interrupted run resumes where
/// it was.
///
/// The file holds JSON lines: the run's [`RunInfo`], then one line per row. A last line that was
/// cut in the middle is dropped. A run resumes only from rows of its own: everything that its
/// `RunInfo` says must be the same.
#[derive(Debug)]
pub struct Journal<R> {
    rows: Vec<R>,
    file: Option<(File, PathBuf)>,
}

/// A journal that cannot be read, written or resumed.
#[derive(Error, Debug)]
pub enum JournalError {
    /// The file cannot be read.
    #[error("{}: expected a readable file of results", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("{}: results could not be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("{}: line {line}: expected {expected}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What should be there.
        expected: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file holds the results of another run.
    #[error(
        "{}: expected results of this run, found others: `{field}` is {found} there and \
         {expected} here", path.display()
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// What differs.
        field: String,
        /// Its value in the file.
        found: String,
        /// Its value in this run.
        expected: String,
    },
}

impl JournalError {
    /// Whether what was asked for is at fault, rather than the machine.
    pub fn is_bad_request(&self) -> bool {
        !matches!(self, Self::Write { .. })
    }
}

impl<R: Serialize + DeserializeOwned> Journal<R> {
    /// A journal without a file.
    pub fn in_memory() -> Self {
        Self {
            rows: Vec::new(),
            file: None,
        }
    }

    /// The journal in a file, with the rows that are there; a new one where there is no file, and
    /// one without a file where there is no path.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written, is no journal, or is that of another run.
    pub fn open(path: Option<&Path>, run: &RunInfo) -> Result<Self, JournalError> {
        let Some(path) = path else {
            return Ok(Self::in_memory());
        };
        let content = match read_file(path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(JournalError::Read {
                    path: path.into(),
                    source,
                });
            }
        };
        // Behind the last line break there is nothing, or a line that was cut, perhaps within a
        // character.
        let end = content.iter().rposition(|&byte| byte == b'\n');
        let whole = end.map_or(0, |end| end + 1);
        let header = serde_json::to_string(run).unwrap_or_default();
        // What is no beginning of this journal is checked, and refused, before anything is dropped.
        let checked = match header.as_bytes().starts_with(&content) {
            true => &[],
            false if whole == 0 => &content[..],
            false => &content[..whole],
        };
        let rows = read(path, checked, run)?;
        let write = |source| JournalError::Write {
            path: path.into(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(write)?;
        file.set_len(whole as u64).map_err(write)?;
        let mut journal = Self {
            rows,
            file: Some((file, path.into())),
        };
        if whole == 0 {
            journal.write(run)?;
        }
        Ok(journal)
    }

    /// The rows so far.
    pub fn rows(&self) -> &[R] {
        &self.rows
    }

    /// Adds a row, and writes it at once.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn push(&mut self, row: R) -> Result<(), JournalError> {
        self.write(&row)?;
        self.rows.push(row);
        Ok(())
    }

    fn write(&mut self, value: &impl Serialize) -> Result<(), JournalError> {
        let Some((file, path)) = &mut self.file else {
            return Ok(());
        };
        let line = serde_json::to_string(value).map_err(io::Error::from);
        let written = line.and_then(|line| file.write_all(format!("{line}\n").as_bytes()));
        written.map_err(|source| JournalError::Write {
            path: path.clone(),
            source,
        })
    }
}

fn read<R: DeserializeOwned>(
    path: &Path,
    content: &[u8],
    run: &RunInfo,
) -> Result<Vec<R>, JournalError> {
    if content.is_empty() {
        return Ok(Vec::new());
    }
    let line_error = |line: usize, expected, source| JournalError::Line {
        path: path.into(),
        line,
        expected,
        source,
    };
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    let mut lines = content.split(|&byte| byte == b'\n').zip(1..);
    let (first, number) = lines.next().expect("a split has a first part");
    let found: Value = serde_json::from_slice::<RunInfo>(first)
        .and_then(serde_json::to_value)
        .map_err(|source| line_error(number, "what a run was made with", source))?;
    // Through text, so that numbers are compared as they come back from a file.
    let expected: Value = serde_json::to_string(run)
        .and_then(|run| serde_json::from_str(&run))
        .map_err(|source| line_error(number, "what a run was made with", source))?;
    if let Some((field, found, expected)) = first_difference("", &found, &expected) {
        return Err(JournalError::OtherRun {
            path: path.into(),
            field,
            found,
            expected,
        });
    }
    lines
        .map(|(line, number)| {
            serde_json::from_slice(line)
                .map_err(|source| line_error(number, "a row of this experiment", source))
        })
        .collect()
}

/// The content of a file that a journal can be kept in. Devices and pipes, which may never end,
/// are none.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    fs::read(path)
}

/// The first field in which two JSON values differ, and both values of it.
fn first_difference(
    field: &str,
    found: &Value,
    expected: &Value,
) -> Option<(String, String, String)> {
    if let (Value::Object(a), Value::Object(b)) = (found, expected) {
        let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
        return keys.into_iter().find_map(|key| {
            let name = match field {
                "" => key.clone(),
                field => format!("{field}.{key}"),
            };
            let of = |object: &serde_json::Map<String, Value>| {
                object.get(key).cloned().unwrap_or(Value::Null)
            };
            first_difference(&name, &of(a), &of(b))
        });
    }
    (found != expected).then(|| (field.to_owned(), found.to_string(), expected.to_string()))
}

#[cfg(test)]
mod tests {
    use quest_burn_models::config::ModelConfig;
    use quest_burn_tests::checkpoint::{self, CheckpointSpec};
    use serde_json::json;

    use super::*;
    use crate::results::{Build, ModelInfo};

    fn run() -> RunInfo {
        let dir = tempfile::tempdir().unwrap();
        checkpoint::write(dir.path(), &CheckpointSpec::default());
        let config = ModelConfig::from_dir(dir.path()).unwrap();
        RunInfo {
            experiment: "counting".into(),
            model: ModelInfo::of_dir(dir.path(), "tiny", &config).unwrap(),
            build: Build {
                version: "1.0.0".into(),
                commit: None,
            },
            device: "flex".into(),
            dtype: "f32".into(),
            digest: "min-max".into(),
            digests: "full".into(),
            kv_cache: "full".into(),
            weights: "full".into(),
            prefill: "dense".into(),
            seed: 7,
            settings: json!({ "lengths": [128, 256], "share": 0.1 }),
        }
    }

    #[test]
    fn rows_come_back_when_a_journal_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let mut journal = Journal::<(u32, f64)>::open(Some(&path), &run()).unwrap();
        assert!(journal.rows().is_empty());
        journal.push((1, 0.1)).unwrap();
        journal.push((2, 0.25)).unwrap();
        drop(journal);
        let mut journal = Journal::<(u32, f64)>::open(Some(&path), &run()).unwrap();
        assert_eq!(journal.rows(), [(1, 0.1), (2, 0.25)]);
        journal.push((3, 0.0)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn a_line_that_was_cut_is_dropped_and_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let mut journal = Journal::<u32>::open(Some(&path), &run()).unwrap();
        journal.push(11).unwrap();
        journal.push(22).unwrap();
        drop(journal);
        let whole = fs::read_to_string(&path).unwrap();
        // In the middle of the second row, before its line break, in the middle of the header.
        for (cut, rows) in [(2, vec![11]), (1, vec![11]), (whole.len() - 5, Vec::new())] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut journal = Journal::<u32>::open(Some(&path), &run()).unwrap();
            assert_eq!(journal.rows(), rows);
            for row in &[11, 22][rows.len()..] {
                journal.push(*row).unwrap();
            }
            drop(journal);
            assert_eq!(fs::read_to_string(&path).unwrap(), whole, "cut by {cut}");
        }
    }

    #[test]
    fn a_line_that_was_cut_within_a_character_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let mut journal = Journal::<String>::open(Some(&path), &run()).unwrap();
        journal.push("first".into()).unwrap();
        journal.push("\u{e9}".into()).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        // Behind the first of the two bytes of the character.
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let journal = Journal::<String>::open(Some(&path), &run()).unwrap();
        assert_eq!(journal.rows(), ["first"]);
    }

    #[test]
    fn results_of_another_run_are_refused_with_what_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        Journal::<u32>::open(Some(&path), &run()).unwrap();
        let mut other = run();
        other.settings = json!({ "lengths": [128], "share": 0.1 });
        let error = Journal::<u32>::open(Some(&path), &other).unwrap_err();
        let message = error.to_string();
        let expected = "`settings.lengths` is [128,256] there and [128] here";
        assert!(message.contains(expected), "{message}");
        assert!(error.is_bad_request());
        let mut other = run();
        other.build.commit = Some("abc".into());
        let error = Journal::<u32>::open(Some(&path), &other).unwrap_err();
        let expected = "`build.commit` is null there and \"abc\" here";
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn files_that_are_no_journal_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        for notes in ["{\"a\": 1}\n", "notes without a line break"] {
            fs::write(&path, notes).unwrap();
            let error = Journal::<u32>::open(Some(&path), &run()).unwrap_err();
            assert!(error.to_string().contains("line 1: expected what a run"));
            assert_eq!(fs::read_to_string(&path).unwrap(), notes);
        }

        let header = serde_json::to_string(&run()).unwrap();
        fs::write(&path, format!("{header}\n5\n\"five\"\n")).unwrap();
        let error = Journal::<u32>::open(Some(&path), &run()).unwrap_err();
        assert!(error.to_string().contains("line 3: expected a row"));

        let error = Journal::<u32>::open(Some(dir.path()), &run()).unwrap_err();
        assert!(error.to_string().contains("expected a readable file"));
    }
}
