//! Files that options name, `-` for stdin.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, bail};
use indicatif::BinaryBytes;

/// What is read of a file: far more than the text of any context, and less than a device that never
/// ends.
const MAX_BYTES: u64 = 256 << 20;

/// The content of a file, or of stdin where the path is `-`.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let content = match path == Path::new("-") {
        true => read_at_most(io::stdin().lock(), MAX_BYTES),
        false => File::open(path).and_then(|file| read_at_most(file, MAX_BYTES)),
    };
    let content =
        content.with_context(|| format!("{}: expected a readable file", path.display()))?;
    let Some(content) = content else {
        let (path, max) = (path.display(), BinaryBytes(MAX_BYTES));
        bail!("{path}: expected at most {max}, found more");
    };
    Ok(content)
}

/// All bytes, or nothing where there are too many.
fn read_at_most(source: impl Read, max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    source.take(max + 1).read_to_end(&mut content)?;
    Ok(Some(content).filter(|content| content.len() as u64 <= max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_end_is_not_read_to_its_end() {
        assert_eq!(read_at_most(&b"1234"[..], 4).unwrap().unwrap(), b"1234");
        assert_eq!(read_at_most(&b"12345"[..], 4).unwrap(), None);
        assert_eq!(read_at_most(io::repeat(0), 1 << 16).unwrap(), None);
    }
}
