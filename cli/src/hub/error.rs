use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a model of the hub is not there.
#[derive(Error, Debug)]
pub(crate) enum HubError {
    /// The hub does not know the name, or does not say.
    #[error(
        "{name}: expected a folder with a model or a model of the hub, found neither at {url} (is the \
         name right? private models need a token in HF_TOKEN)"
    )]
    NotFound { name: String, url: String },
    /// There is no such branch, tag or commit.
    #[error("{name}: expected a revision of the model on the hub, found no `{revision}`")]
    Revision { name: String, revision: String },
    /// The licence must be agreed to.
    #[error(
        "{name}: expected access to a gated model: agree to its licence at {url} and put a token of \
         that account into HF_TOKEN (https://huggingface.co/settings/tokens), {found}"
    )]
    Gated {
        name: String,
        url: String,
        found: &'static str,
    },
    /// The token is not accepted.
    #[error(
        "{name}: expected a token that may read it, the hub refuses the one that is set ({url})"
    )]
    Forbidden { name: String, url: String },
    /// The hub answers with an error.
    #[error("{url}: expected an answer of the hub, found status {status}")]
    Status { url: String, status: u16 },
    /// The hub answers with something else.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        url: String,
        expected: &'static str,
        found: String,
    },
    /// The hub cannot be reached, and the cache does not have the model.
    #[error(
        "{name}: expected a folder with a model or a model of the hub, found no folder, and the hub \
         cannot be reached ({problem}); in the cache {}: {cached}", cache.display()
    )]
    Unreachable {
        name: String,
        problem: String,
        cache: PathBuf,
        cached: String,
    },
    /// The connection was lost again and again.
    #[error("{url}: expected {expected} bytes, found {found} before the connection was lost")]
    Lost {
        url: String,
        expected: u64,
        found: u64,
        source: io::Error,
    },
    /// What came is not what the hub has.
    #[error("{url}: expected content with SHA-256 {expected}, found {found} (try again)")]
    Content {
        url: String,
        expected: String,
        found: String,
    },
    /// The repository has no weights that are read.
    #[error("{name}: expected weights as safetensors, PyTorch or GGUF files, found {found}")]
    NoWeights { name: String, found: String },
    /// It is not clear which GGUF file is meant.
    #[error(
        "{name}: expected the name of one GGUF file as in {repository}:Q4_K_M; there are {found}"
    )]
    Quantization {
        name: String,
        repository: String,
        found: String,
    },
    /// The cache cannot be read or written.
    #[error("{}: expected a cache that can be written", path.display())]
    Cache { path: PathBuf, source: io::Error },
}
