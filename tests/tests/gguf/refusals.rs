//! What is refused, and what the error says.

use std::fs;

use quest_burn_models::source;
use quest_burn_tests::gguf::{Gguf, GgufSpec, Meta, Pair};

use super::folder;

fn error_of(change: impl FnOnce(&mut Gguf)) -> String {
    let dir = folder();
    let path = dir.path().join("model.gguf");
    let mut gguf = Pair::new(&GgufSpec::default()).gguf;
    change(&mut gguf);
    gguf.write(&path);
    let result = source::open(&path).and_then(|source| {
        source.config()?;
        source.tensors().map(drop)
    });
    let error = result.unwrap_err().to_string();
    assert!(error.contains("model.gguf"), "{error}");
    error
}

#[test]
fn what_is_not_supported_is_named() {
    for (expected, change) in [
        (
            "unsupported architecture `mamba`; supported: ",
            &(|gguf: &mut Gguf| gguf.set("general.architecture", Meta::Text("mamba".into())))
                as &dyn Fn(&mut Gguf),
        ),
        ("expected field `llama.expert_used_count`", &|gguf| {
            gguf.set("llama.expert_count", Meta::U32(8));
        }),
        (
            "unsupported type `Q3_K` of tensor `token_embd.weight`",
            &|gguf| {
                gguf.tensors[0].kind = 11;
            },
        ),
        ("unsupported RoPE type `longrope`", &|gguf| {
            gguf.set("llama.rope.scaling.type", Meta::Text("longrope".into()));
        }),
        (
            "`llama.rope.dimension_count`: expected 64 channels",
            &|gguf| {
                gguf.set("llama.rope.dimension_count", Meta::U32(32));
            },
        ),
        ("expected field `llama.block_count`, found none", &|gguf| {
            gguf.pairs.retain(|(key, _)| key != "llama.block_count");
        }),
        (
            "field `llama.context_length`: expected a whole number",
            &|gguf| {
                gguf.set("llama.context_length", Meta::Text("long".into()));
            },
        ),
        (
            "expected a tensor `token_embd.weight`, found none",
            &|gguf| {
                gguf.tensors.remove(0);
            },
        ),
        (
            "field `general.alignment`: expected a power of two",
            &|gguf| {
                gguf.set("general.alignment", Meta::U32(24));
            },
        ),
    ] {
        let error = error_of(change);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn files_that_are_no_gguf_say_so() {
    let dir = folder();
    let path = dir.path().join("model.gguf");
    for (content, expected) in [
        (
            &b""[..],
            "expected 4 bytes of the name of the format at 0, found 0",
        ),
        (b"GGML....", "it begins with \"GGML\""),
        (b"GGUF\0\0\0\x03........", "numbers are big-endian"),
        (b"GGUF\x01\0\0\0........", "expected version 2 or 3"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "Git LFS pointer",
        ),
    ] {
        fs::write(&path, content).unwrap();
        let error = source::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::copy(&path, dir.path().join("other.gguf")).unwrap();
    let error = source::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("expected one GGUF file, found model.gguf, other.gguf"),
        "{error}"
    );
}
