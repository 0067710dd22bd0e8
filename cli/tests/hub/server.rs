//! A hub on loopback that answers as the Hugging Face hub does.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository of one model, and how the hub behaves.
#[derive(Clone, Default)]
pub(crate) struct Repository {
    pub name: &'static str,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Bytes after which a connection that brings content ends.
    pub cut: Option<usize>,
    /// The token without which files are refused.
    pub token: Option<&'static str>,
    /// Whether storage ignores what byte it is asked to begin with.
    pub ignores_ranges: bool,
    /// Whether storage brings something else.
    pub garbles: bool,
}

pub(crate) struct Hub {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Repository {
    pub(crate) fn of_dir(name: &'static str, dir: &Path) -> Self {
        let files = fs::read_dir(dir).unwrap().map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        });
        let mut repository = Self {
            name,
            files: files.collect(),
            ..Self::default()
        };
        for other in ["README.md", "onnx/model.onnx"] {
            repository.files.insert(other.to_owned(), b"large".to_vec());
        }
        repository
    }
}

pub(crate) fn sha256(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    pub(crate) fn serve(repository: Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let hub = Self {
            endpoint: endpoint.clone(),
            requests: requests.clone(),
        };
        thread::spawn(move || {
            for connection in listener.incoming() {
                let connection = connection.unwrap();
                let _ = answer(&repository, &endpoint, &requests, connection);
            }
        });
        hub
    }

    /// Method, path and range of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(
    repository: &Repository,
    endpoint: &str,
    requests: &Mutex<Vec<String>>,
    mut connection: TcpStream,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let range = headers.get("range").cloned();
    requests.lock().unwrap().push(match &range {
        Some(range) => format!("{method} {path} {range}"),
        None => format!("{method} {path}"),
    });
    let head = method == "HEAD";
    let mut respond = |status: &str, more: &str, body: &[u8]| {
        let length = body.len();
        write!(
            connection,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n"
        )?;
        match head {
            true => Ok(()),
            false => connection.write_all(&body[..length.min(repository.cut.unwrap_or(length))]),
        }
    };
    let name = repository.name;
    let api = format!("/api/models/{name}/revision/main");
    if path == api || path == format!("/api/models/{name}/revision/{COMMIT}") {
        let files = repository.files.keys();
        let siblings = files.map(|file| json!({ "rfilename": file }));
        let model = json!({ "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() });
        // The list is not what is cut.
        let model = model.to_string();
        return write!(
            connection,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{model}",
            model.len()
        );
    }
    if path.starts_with(&format!("/api/models/{name}/")) {
        return respond("404 Not Found", "X-Error-Code: RevisionNotFound\r\n", b"");
    }
    let resolved = path.strip_prefix(&format!("/{name}/resolve/{COMMIT}/"));
    if let Some((file, content)) = resolved.and_then(|f| Some((f, repository.files.get(f)?))) {
        let token = headers.get("authorization");
        let expected = repository.token.map(|token| format!("Bearer {token}"));
        if expected.is_some() && token != expected.as_ref() {
            return respond("401 Unauthorized", "X-Error-Code: GatedRepo\r\n", b"");
        }
        // Large files lie in storage of their own.
        if !file.ends_with(".safetensors") {
            return respond(
                "200 OK",
                &format!("ETag: \"{:040x}\"\r\n", content.len()),
                content,
            );
        }
        let (etag, size) = (sha256(content), content.len());
        let more = format!(
            "Location: {endpoint}/storage/{file}\r\nX-Linked-ETag: \"{etag}\"\r\n\
             X-Linked-Size: {size}\r\nX-Repo-Commit: {COMMIT}\r\n"
        );
        return respond("302 Found", &more, b"");
    }
    let stored = path.strip_prefix("/storage/");
    if let Some(content) = stored.and_then(|file| repository.files.get(file)) {
        let mut content = content.clone();
        if repository.garbles {
            content.reverse();
        }
        let start = range.filter(|_| !repository.ignores_ranges);
        let start = start.map(|range| {
            let start = range.strip_prefix("bytes=").unwrap().trim_end_matches('-');
            start.parse::<usize>().unwrap()
        });
        return match start {
            Some(start) => respond("206 Partial Content", "", &content[start..]),
            None => respond("200 OK", "", &content),
        };
    }
    respond("401 Unauthorized", "X-Error-Code: RepoNotFound\r\n", b"")
}
