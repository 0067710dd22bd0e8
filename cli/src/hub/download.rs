use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    path::Path,
    thread,
    time::Duration,
};

use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::{
    HubError,
    cache::CachedRepository,
    client::{Client, FileInfo, RequestError},
};

/// Connections in a row that bring nothing before it is given up.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Brings the content of a file into the cache. What an earlier try has brought is kept, also that
/// of another program. `progress` is told how many bytes are there.
pub(super) fn download(
    client: &Client,
    cached: &CachedRepository,
    commit: &str,
    file: &str,
    info: &FileInfo,
    progress: &mut dyn FnMut(u64),
) -> Result<(), RequestError> {
    let blob = cached.blob(&info.etag);
    let failed = |path: &Path, source: io::Error| HubError::Cache {
        path: path.into(),
        source,
    };
    fs::create_dir_all(blob.parent().unwrap_or(&blob)).map_err(|error| failed(&blob, error))?;
    let _lock = cached
        .lock(&info.etag)
        .map_err(|error| failed(&blob, error))?;
    if blob.exists() {
        return Ok(());
    }
    let mut part = blob.clone().into_os_string();
    part.push(".incomplete");
    let part = Path::new(&part);
    let mut content = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(part)
        .map_err(|error| failed(part, error))?;
    let found = content
        .metadata()
        .map_err(|error| failed(part, error))?
        .len();
    if found > info.bytes {
        content.set_len(0).map_err(|error| failed(part, error))?;
    }

    let mut failures = 0;
    loop {
        let before = content
            .metadata()
            .map_err(|error| failed(part, error))?
            .len();
        progress(before);
        if before == info.bytes {
            break;
        }
        let end = match receive(client, commit, file, info, &mut content, before, progress)? {
            Received::Whole => continue,
            Received::Lost(error) => error,
            Received::NotWritten(error) => return Err(failed(part, error).into()),
        };
        let after = content
            .metadata()
            .map_err(|error| failed(part, error))?
            .len();
        failures = if after > before { 0 } else { failures + 1 };
        if failures == ATTEMPTS {
            return Err(RequestError::Hub(HubError::Lost {
                url: client.url(commit, file),
                expected: info.bytes,
                found: after,
                source: end,
            }));
        }
        thread::sleep(FIRST_PAUSE * 2u32.pow(failures));
    }
    if let Err((expected, found)) = check(&mut content, info).map_err(|e| failed(part, e))? {
        // A partial file is not resumed.
        fs::remove_file(part).map_err(|error| failed(part, error))?;
        return Err(RequestError::Hub(HubError::Content {
            url: client.url(commit, file),
            expected,
            found,
        }));
    }
    fs::rename(part, &blob).map_err(|error| failed(&blob, error))?;
    Ok(())
}

enum Received {
    Whole,
    Lost(io::Error),
    NotWritten(io::Error),
}

/// One connection: from where the content ends to its end, or to that of the connection.
fn receive(
    client: &Client,
    commit: &str,
    file: &str,
    info: &FileInfo,
    content: &mut File,
    start: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Received, RequestError> {
    let mut response = match client.content(commit, file, start) {
        Ok(response) => response,
        Err(RequestError::Connection(error)) => {
            return Ok(Received::Lost(io::Error::other(error)));
        }
        // The hub is busy.
        Err(RequestError::Hub(HubError::Status { status, .. }))
            if status == 429 || status >= 500 =>
        {
            return Ok(Received::Lost(io::Error::other(format!("status {status}"))));
        }
        Err(error) => return Err(error),
    };
    let mut done = start;
    if start > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        // The server ignored the range: the file is downloaded from its start.
        if let Err(error) = content.set_len(0) {
            return Ok(Received::NotWritten(error));
        }
        done = 0;
    }
    let mut body = response.body_mut().as_reader().take(info.bytes - done);
    let mut buffer = vec![0; 1 << 18];
    while done < info.bytes {
        let read = match body.read(&mut buffer) {
            Ok(0) => return Ok(Received::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Received::Lost(error)),
        };
        if let Err(error) = content.write_all(&buffer[..read]) {
            return Ok(Received::NotWritten(error));
        }
        done += read as u64;
        progress(done);
    }
    Ok(Received::Whole)
}

/// Compares content with the SHA-256 that its name is, for large files. Gives the expected and the
/// found one where they differ.
fn check(content: &mut File, info: &FileInfo) -> io::Result<Result<(), (String, String)>> {
    let is_sha256 = info.etag.len() == 64 && info.etag.chars().all(|c| c.is_ascii_hexdigit());
    if !is_sha256 {
        return Ok(Ok(()));
    }
    content.rewind()?;
    let mut hash = Sha256::new();
    io::copy(content, &mut hash)?;
    let digest = hash.finalize();
    let found = digest.iter().map(|byte| format!("{byte:02x}"));
    let found = found.collect::<String>();
    Ok(match found == info.etag.to_lowercase() {
        true => Ok(()),
        false => Err((info.etag.clone(), found)),
    })
}
