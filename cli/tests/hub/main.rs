//! Models by their names on the hub.

#![cfg(all(feature = "hub", unix))]

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use common::Checkpoint;
use serde_json::Value;
use server::{COMMIT, Hub, Repository, sha256};
use tempfile::TempDir;

const NAME: &str = "org/Tiny-Model";

/// Someone with an empty cache.
struct User {
    home: TempDir,
    ids: PathBuf,
}

impl User {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let ids = home.path().join("ids.json");
        fs::write(&ids, "[7, 33, 90, 12]").unwrap();
        Self { home, ids }
    }

    fn command(&self, model: &str, endpoint: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quest"));
        command
            .args([
                "generate",
                "--device",
                "flex",
                "--json",
                "--max-new-tokens",
                "4",
            ])
            .args(["--model", model, "--ids"])
            .arg(&self.ids)
            .current_dir(self.home.path())
            .env("HF_HOME", self.home.path().join("hf"))
            .env("HF_ENDPOINT", endpoint);
        for variable in [
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HF_TOKEN_PATH",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, model: &str, hub: &Hub) -> Output {
        self.command(model, &hub.endpoint).output().unwrap()
    }

    fn cached(&self, path: &str) -> PathBuf {
        let repository = self.home.path().join("hf/hub/models--org--Tiny-Model");
        repository.join(path)
    }
}

#[track_caller]
fn ids(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    result["ids"].clone()
}

#[track_caller]
fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    stderr.lines().last().unwrap().to_owned()
}

/// A checkpoint, its repository, and what it generates.
fn model() -> (Checkpoint, Repository, Value) {
    let checkpoint = Checkpoint::of_bytes();
    let repository = Repository::of_dir(NAME, checkpoint.path());
    let user = User::new();
    let path = checkpoint.path().to_str().unwrap().to_owned();
    let expected = ids(&user.command(&path, "http://127.0.0.1:1").output().unwrap());
    (checkpoint, repository, expected)
}

#[test]
fn a_model_is_brought_once_and_used_offline() {
    let (_checkpoint, repository, expected) = model();
    let hub = Hub::serve(repository.clone());
    let user = User::new();
    assert_eq!(ids(&user.run(NAME, &hub)), expected);

    let weights = user.cached(&format!("snapshots/{COMMIT}/model.safetensors"));
    let content = &repository.files["model.safetensors"];
    let link = fs::read_link(&weights).unwrap();
    assert_eq!(
        link,
        PathBuf::from(format!("../../blobs/{}", sha256(content)))
    );
    assert_eq!(&fs::read(&weights).unwrap(), content);
    assert_eq!(
        fs::read_to_string(user.cached("refs/main")).unwrap(),
        COMMIT
    );
    let requests = hub.requests();
    assert!(
        !requests.iter().any(|request| request.contains("onnx")),
        "{requests:?}"
    );

    // Everything is there: the hub is asked for the commit alone.
    assert_eq!(ids(&user.run(NAME, &hub)), expected);
    assert_eq!(hub.requests().len(), requests.len() + 1);
    // And offline for nothing.
    let at_commit = format!("{NAME}@{COMMIT}");
    for name in [NAME, &at_commit] {
        let mut offline = user.command(name, &hub.endpoint);
        let output = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
        assert_eq!(ids(&output), expected);
    }
    assert_eq!(hub.requests().len(), requests.len() + 1);
    // Nor where the hub is gone.
    let gone = user.command(NAME, "http://127.0.0.1:1").output().unwrap();
    assert_eq!(ids(&gone), expected);
    let stderr = String::from_utf8_lossy(&gone.stderr);
    assert!(stderr.contains("the cache is used"), "{stderr}");
}

#[test]
fn connections_that_are_cut_are_gone_on_from() {
    let (_checkpoint, repository, expected) = model();
    let size = repository.files["model.safetensors"].len();
    for ignores_ranges in [false, true] {
        // Where all of it comes again, one connection must be long enough.
        let cut = if ignores_ranges { size } else { size / 3 };
        let hub = Hub::serve(Repository {
            cut: Some(cut),
            ignores_ranges,
            ..repository.clone()
        });
        let user = User::new();
        let content = &repository.files["model.safetensors"];
        let part = user.cached(&format!("blobs/{}.incomplete", sha256(content)));
        fs::create_dir_all(part.parent().unwrap()).unwrap();
        fs::write(&part, &content[..1000]).unwrap();
        assert_eq!(ids(&user.run(NAME, &hub)), expected);
        let requests = hub.requests();
        let storage = requests
            .iter()
            .filter(|request| request.contains("/storage/"));
        let storage = storage.collect::<Vec<_>>();
        assert!(storage[0].ends_with("bytes=1000-"), "{storage:?}");
        if !ignores_ranges {
            let next = format!("bytes={}-", 1000 + cut);
            assert!(storage[1].ends_with(&next), "{storage:?}");
        }
        assert!(!part.exists());
    }
}

#[test]
fn other_content_than_the_hub_has_is_refused() {
    let (_checkpoint, repository, expected) = model();
    let user = User::new();
    let garbling = Hub::serve(Repository {
        garbles: true,
        ..repository.clone()
    });
    let error = refusal(&user.run(NAME, &garbling));
    assert!(error.contains("expected content with SHA-256"), "{error}");
    // It is not resumed.
    let hub = Hub::serve(repository);
    assert_eq!(ids(&user.run(NAME, &hub)), expected);
}

#[test]
fn gated_models_need_a_token() {
    let (_checkpoint, repository, expected) = model();
    let hub = Hub::serve(Repository {
        token: Some("secret"),
        ..repository
    });
    let user = User::new();
    let error = refusal(&user.run(NAME, &hub));
    assert!(
        error.contains("expected access to a gated model"),
        "{error}"
    );
    assert!(
        error.contains(&format!("{}/{NAME}", hub.endpoint)),
        "{error}"
    );
    assert!(
        error.contains("HF_TOKEN") && error.ends_with("found no token"),
        "{error}"
    );

    let mut command = user.command(NAME, &hub.endpoint);
    let error = refusal(&command.env("HF_TOKEN", "another").output().unwrap());
    assert!(error.ends_with("found a token without access"), "{error}");
    fs::create_dir_all(user.home.path().join("hf")).unwrap();
    fs::write(user.home.path().join("hf/token"), "secret\n").unwrap();
    assert_eq!(ids(&user.run(NAME, &hub)), expected);
}

#[test]
fn names_that_lead_nowhere_say_why() {
    let (_checkpoint, repository, _) = model();
    let hub = Hub::serve(repository);
    let user = User::new();
    let error = refusal(&user.run("org/Tiny-Modle", &hub));
    assert!(
        error.contains("org/Tiny-Modle: expected a folder with a model or"),
        "{error}"
    );
    let error = refusal(&user.run("org/Tiny-Model@v9", &hub));
    assert!(error.ends_with("found no `v9`"), "{error}");
    let error = refusal(&user.run("org/Tiny-Model:Q4_0", &hub));
    assert!(error.contains("expected weights as safetensors"), "{error}");

    // Nothing answers; the cache has another model.
    fs::create_dir_all(user.home.path().join("hf/hub/models--org--Other")).unwrap();
    let nowhere = user.command(NAME, "http://127.0.0.1:1").output().unwrap();
    let error = refusal(&nowhere);
    assert!(error.contains("the hub cannot be reached"), "{error}");
    assert!(error.contains("org/Other"), "{error}");
    let mut offline = user.command(NAME, &hub.endpoint);
    let error = refusal(&offline.env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(error.contains("HF_HUB_OFFLINE is set"), "{error}");
}

#[test]
fn a_path_that_is_there_is_no_name() {
    let (checkpoint, repository, expected) = model();
    let hub = Hub::serve(repository);
    let user = User::new();
    fs::create_dir_all(user.home.path().join("org")).unwrap();
    let path = user.home.path().join(NAME);
    std::os::unix::fs::symlink(checkpoint.path(), path).unwrap();
    assert_eq!(ids(&user.run(NAME, &hub)), expected);
    assert!(hub.requests().is_empty());
}
