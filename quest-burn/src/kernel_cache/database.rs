//! The files of the cache: bounded in size, and deleted where they are damaged.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::SystemTime,
};

use cubecl::{environment, future::block_on};

/// What a database is made of beside its main file.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-tshm"];
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Makes room for the database, and deletes it where it cannot be used. Says why it did.
pub(super) fn prepare(file: &Path, max_bytes: u64) -> Option<String> {
    let reason = match fault(file) {
        Some(fault) => Some(fault),
        None if bytes(file) > max_bytes => {
            let (found, most) = (bytes(file), max_bytes);
            Some(format!("expected at most {most} bytes, found {found}"))
        }
        None => None,
    };
    if reason.is_some() {
        remove(file);
    }
    if let Some(folder) = file.parent() {
        remove_oldest(folder, file, max_bytes);
    }
    reason.map(|reason| format!("{}: {reason}", file.display()))
}

/// Opens the database as CubeCL's stores will, so that what is wrong is known now: the environment is
/// active by then. A store that cannot write says so only in the log.
pub(super) fn open(file: &Path) -> Result<(), String> {
    block_on(environment::open());
    let writable = File::options().append(true).open(file);
    match writable.map_err(|error| format!("{}: {error}", file.display()))? {
        _ if fault(file).is_none() => Ok(()),
        _ => Err(format!("{} is not a database", file.display())),
    }
}

/// Bytes of all databases in a folder.
pub(super) fn total_bytes(folder: &Path) -> u64 {
    databases(folder).iter().map(|file| bytes(file)).sum()
}

/// Why a file is no whole database: its header is not one, or the file ends before the pages that the
/// header counts. Nothing is wrong with a file that is not there.
fn fault(file: &Path) -> Option<String> {
    let mut header = [0; 100];
    let length = match fs::metadata(file) {
        Ok(metadata) => metadata.len(),
        Err(_) => return None,
    };
    // An empty file is what another process leaves between creating and filling it.
    if length == 0 {
        return None;
    }
    if let Err(error) = File::open(file).and_then(|mut file| file.read_exact(&mut header)) {
        return Some(format!("expected a database, found no header: {error}"));
    }
    if !header.starts_with(MAGIC) {
        return Some("expected a database, found another file".to_owned());
    }
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        size => u64::from(size),
    };
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    let expected = page_size * u64::from(pages);
    (length < expected).then(|| format!("expected {expected} bytes, found {length}: it was cut"))
}

fn remove(file: &Path) {
    // What cannot be deleted cannot be written either, which opening it finds.
    let _ = fs::remove_file(file);
    for companion in companions(file) {
        let _ = fs::remove_file(companion);
    }
}

/// Deletes databases that other versions and drivers left, the oldest first, until all fit.
fn remove_oldest(folder: &Path, keep: &Path, max_bytes: u64) {
    let written = |file: &PathBuf| {
        let metadata = fs::metadata(file).and_then(|metadata| metadata.modified());
        metadata.unwrap_or(SystemTime::UNIX_EPOCH)
    };
    let mut others = databases(folder);
    others.retain(|file| file != keep);
    others.sort_by_key(written);
    let mut total = total_bytes(folder);
    for file in others {
        if total <= max_bytes {
            break;
        }
        total -= bytes(&file);
        remove(&file);
    }
}

fn databases(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_database = |file: &PathBuf| {
        let extension = file.extension().and_then(|extension| extension.to_str());
        extension == Some(environment::EXTENSION)
    };
    files.filter(is_database).collect()
}

fn bytes(file: &Path) -> u64 {
    let files = companions(file).into_iter().chain([file.to_path_buf()]);
    let lengths = files.filter_map(|file| Some(fs::metadata(file).ok()?.len()));
    lengths.sum()
}

fn companions(file: &Path) -> Vec<PathBuf> {
    let with = |suffix: &&str| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    COMPANIONS.iter().map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(folder: &Path, name: &str, bytes: usize) -> PathBuf {
        let file = folder.join(name);
        let mut content = vec![0; bytes];
        content[..MAGIC.len()].copy_from_slice(MAGIC);
        content[16..18].copy_from_slice(&512u16.to_be_bytes());
        content[28..32].copy_from_slice(&(bytes as u32 / 512).to_be_bytes());
        fs::write(&file, content).unwrap();
        file
    }

    #[test]
    fn a_whole_database_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = database(folder.path(), "a.db", 2048);
        assert_eq!(prepare(&file, 4096), None);
        assert!(file.exists());
    }

    #[test]
    fn a_database_that_was_cut_goes_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let file = database(folder.path(), "a.db", 2048);
        let wal = folder.path().join("a.db-wal");
        fs::write(&wal, [0; 10]).unwrap();
        let whole = fs::read(&file).unwrap();
        for length in [1, 50, 1024, 2047] {
            fs::write(&file, &whole[..length]).unwrap();
            fs::write(&wal, [0; 10]).unwrap();
            let reason = prepare(&file, 4096).unwrap();
            assert!(reason.contains("expected"), "{reason}");
            assert!(!file.exists() && !wal.exists());
        }
    }

    #[test]
    fn what_is_no_database_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        fs::write(&file, [7; 4096]).unwrap();
        let reason = prepare(&file, 1 << 20).unwrap();
        assert!(reason.contains("another file"), "{reason}");
        assert!(!file.exists());
    }

    #[test]
    fn databases_written_longest_ago_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let named = |name| database(folder.path(), name, 2048);
        let [old, newer, own] = ["old.db", "newer.db", "own.db"].map(named);
        let day = std::time::Duration::from_secs(86400);
        for (file, days) in [(&old, 3), (&newer, 2), (&own, 5)] {
            let file = File::options().append(true).open(file).unwrap();
            file.set_modified(SystemTime::now() - days * day).unwrap();
        }
        assert_eq!(prepare(&own, 4096), None);
        assert!(!old.exists() && newer.exists() && own.exists());
    }

    #[test]
    fn a_database_beyond_the_bound_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = database(folder.path(), "a.db", 8192);
        let reason = prepare(&file, 4096).unwrap();
        assert!(
            reason.contains("at most 4096 bytes, found 8192"),
            "{reason}"
        );
        assert!(!file.exists());
    }
}
