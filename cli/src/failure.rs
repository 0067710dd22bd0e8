//! Errors on their way out: one line on stderr and an exit code.

use std::process::ExitCode;

use quest_burn_experiments::{ExperimentError, results::JournalError};
use quest_burn_models::generation::GenerateError;
use quest_burn_report::plot::PlotError;

/// The exit code of a failure that the user is not the cause of.
pub(crate) const INTERNAL: ExitCode = ExitCode::FAILURE;

const BAD_INPUT: u8 = 2;

/// That of programs that Ctrl-C ends.
const INTERRUPTED: u8 = 130;

/// Why the program ends without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for cannot be done.
    BadInput(anyhow::Error),
    /// Something failed on the way.
    Internal(anyhow::Error),
    /// A signal asked the program to end.
    Interrupted(&'static str),
    /// Who read the results has read enough, as `head` has after a line.
    StdoutClosed,
}

impl Failure {
    /// An error that is not the user's.
    pub(crate) fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self::Internal(error.into())
    }

    /// Prints the error, if it is one, and says the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (error, code) = match self {
            Self::BadInput(error) => (error, ExitCode::from(BAD_INPUT)),
            Self::Internal(error) => (error, INTERNAL),
            Self::Interrupted(what) => {
                eprintln!("error: {what}");
                return ExitCode::from(INTERRUPTED);
            }
            Self::StdoutClosed => return ExitCode::SUCCESS,
        };
        eprintln!("error: {}", one_line(&format!("{error:#}")));
        code
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::BadInput(error)
    }
}

impl From<GenerateError> for Failure {
    fn from(error: GenerateError) -> Self {
        if error.is_bad_request() {
            Self::BadInput(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}

impl From<ExperimentError> for Failure {
    fn from(error: ExperimentError) -> Self {
        if error.is_bad_request() {
            Self::BadInput(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        ExperimentError::from(error).into()
    }
}

impl From<PlotError> for Failure {
    fn from(error: PlotError) -> Self {
        Self::Internal(error.into())
    }
}

/// Prints what is wrong with the command line, or the help that was asked for.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody is left to tell that the help could not be printed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let text = text.trim_start_matches("error: ");
    // The paragraphs behind the first are usage, and hints at what was meant.
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or(text);
    let hints = paragraphs.flat_map(str::lines).filter_map(|line| {
        let hint = line.trim().strip_prefix("tip: ")?;
        Some(format!(" ({hint})"))
    });
    let hints = hints.collect::<String>();
    eprintln!("error: {}{hints}", one_line(first));
    ExitCode::from(BAD_INPUT)
}

pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
