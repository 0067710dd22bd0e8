use std::{error::Error as _, io, path::PathBuf};

use thiserror::Error;

use crate::{error::ModelError, tokenizer::TokenizerError};

/// Why messages did not become a prompt.
#[derive(Error, Debug)]
pub enum ChatError {
    /// A file cannot be read.
    #[error("{}: expected a readable file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file beside the weights is not what it should be.
    #[error(transparent)]
    File(#[from] ModelError),
    /// There are templates, but not the one that is needed.
    #[error("{origin}: expected a chat template named `{name}`, found {found}")]
    Name {
        /// Where the templates come from.
        origin: String,
        /// The name that was looked for.
        name: String,
        /// The names that are there.
        found: String,
    },
    /// The template is not one.
    #[error("chat template of {origin}: {}", describe(problem))]
    Syntax {
        /// Where the template comes from.
        origin: String,
        /// What is wrong with it.
        problem: minijinja::Error,
    },
    /// The template refuses the messages.
    #[error("chat template of {origin}: {message}")]
    Refused {
        /// Where the template comes from.
        origin: String,
        /// What the template says.
        message: String,
    },
    /// The template failed on the messages.
    #[error("chat template of {origin}: {}", describe(problem))]
    Render {
        /// Where the template comes from.
        origin: String,
        /// What went wrong.
        problem: minijinja::Error,
    },
    /// There are no messages.
    #[error("conversation: expected at least one message, found none")]
    Empty,
    /// The rendered text cannot be encoded.
    #[error(transparent)]
    Encode(#[from] TokenizerError),
}

/// An error of the template engine with its causes, in one line.
fn describe(error: &minijinja::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
