//! Files that results go to.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

/// Whether a file can be written, asked before long work; what is there stays as it is.
///
/// Pipes and devices are not opened, as that would use them up, and are taken for writable.
///
/// # Errors
///
/// When the file cannot be opened or made.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let is_there = path.symlink_metadata().is_ok();
    // A link to nothing would be removed below.
    if is_there && !path.is_file() && !path.is_dir() {
        return Ok(());
    }
    OpenOptions::new().append(true).create(true).open(path)?;
    if !is_there {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_be_written_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        check_writable(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "row").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "row");
    }

    #[test]
    fn a_file_in_no_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_writable(&folder.path().join("absent/rows.jsonl")).is_err());
        assert!(check_writable(folder.path()).is_err());
    }
}
