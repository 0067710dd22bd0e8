use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use crate::error::ModelError;

/// Reads the head of a file from its beginning, and never more than the file has.
pub(super) struct Reader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    position: u64,
    length: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, ModelError> {
        let error = |source| ModelError::Read {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(error)?;
        let length = file.metadata().map_err(error)?.len();
        Ok(Self {
            path,
            file: BufReader::new(file),
            position: 0,
            length,
        })
    }

    /// Bytes that were read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn garbled(&self, problem: impl Into<String>) -> ModelError {
        ModelError::garbled(self.path, super::NAME, problem)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ModelError> {
        let mut bytes = [0; N];
        self.claim(N as u64, what)?;
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least `least_bytes` each.
    pub(super) fn count(&mut self, least_bytes: u64, what: &str) -> Result<usize, ModelError> {
        let count = self.u64(what)?;
        let left = self.length - self.position;
        match count.checked_mul(least_bytes) {
            Some(bytes) if bytes <= left => Ok(count as usize),
            _ => Err(self.garbled(format!(
                "expected {what} within the {left} bytes that follow, found {count}"
            ))),
        }
    }

    /// A text with its length before it; bytes that are no UTF-8 are replaced.
    pub(super) fn text(&mut self, what: &str) -> Result<String, ModelError> {
        let length = self.count(1, what)?;
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    fn claim(&self, n: u64, what: &str) -> Result<(), ModelError> {
        let left = self.length - self.position;
        if n > left {
            return Err(self.garbled(format!(
                "expected {n} bytes of {what} at {}, found {left}",
                self.position
            )));
        }
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ModelError> {
        self.file
            .read_exact(bytes)
            .map_err(|source| ModelError::Read {
                path: self.path.into(),
                source,
            })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
