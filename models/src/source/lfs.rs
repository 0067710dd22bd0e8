use std::{
    fs::File,
    io::{Read, Take},
    path::Path,
};

use crate::error::ModelError;

/// How a file begins that stands for a large one in a Git repository.
const POINTER: &[u8] = b"version https://git-lfs.github.com/";

/// More bytes than any text beside weights has: what is larger is some other file, or has no end.
const MAX_TEXT: u64 = 1 << 30;

/// The content of a file beside the weights; a byte order mark is left out.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    let n = open(path, MAX_TEXT)?
        .read_to_end(&mut bytes)
        .map_err(|source| error(path, source))?;
    if n as u64 == MAX_TEXT {
        return Err(ModelError::TooLarge {
            path: path.into(),
            most: MAX_TEXT,
        });
    }
    if bytes.starts_with(POINTER) {
        return Err(ModelError::LfsPointer { path: path.into() });
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// The first bytes of a file, as many as there are.
pub(super) fn start(path: &Path, n: usize) -> Result<Vec<u8>, ModelError> {
    let mut bytes = Vec::new();
    open(path, n as u64)?
        .read_to_end(&mut bytes)
        .map_err(|source| error(path, source))?;
    Ok(bytes)
}

/// Whether a file is no more than a pointer to the real one.
pub(crate) fn is_pointer(path: &Path) -> Result<bool, ModelError> {
    Ok(start(path, POINTER.len())? == POINTER)
}

fn open(path: &Path, most: u64) -> Result<Take<File>, ModelError> {
    let file = File::open(path).map_err(|source| error(path, source))?;
    Ok(file.take(most))
}

fn error(path: &Path, source: std::io::Error) -> ModelError {
    ModelError::Read {
        path: path.into(),
        source,
    }
}
