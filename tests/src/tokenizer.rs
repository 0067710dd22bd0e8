//! Tokenizers as `tokenizer.json`.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

/// Tokens of [`write_bytes`].
pub const BYTE_VOCABULARY: usize = SPECIAL.len() + 256;

/// What is unknown, the beginning and the end of a text.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// Writes a tokenizer whose tokens are bytes, behind `<unk>`, the beginning and the end of a text
/// (0, 1 and 2). Texts begin with their beginning.
///
/// # Panics
///
/// When the file cannot be written.
pub fn write_bytes(dir: &Path) {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let decoder = json!({
        "type": "Sequence",
        "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }],
    });
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": SPECIAL[0],
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": true,
        "vocab": vocabulary(bytes),
        "merges": [],
    });
    write(dir, Value::Null, decoder, model);
}

/// Writes a tokenizer of the words w3, w4, ... behind `<unk>`, the beginning and the end of a text
/// (0, 1 and 2). Texts begin with their beginning.
///
/// # Panics
///
/// When the file cannot be written.
pub fn write_words(dir: &Path, vocab_size: usize) {
    let words = (SPECIAL.len()..vocab_size).map(|id| format!("w{id}"));
    let model = json!({
        "type": "WordLevel",
        "vocab": vocabulary(words),
        "unk_token": SPECIAL[0],
    });
    write(dir, json!({ "type": "Whitespace" }), Value::Null, model);
}

fn vocabulary(tokens: impl Iterator<Item = String>) -> Map<String, Value> {
    let special = SPECIAL.map(str::to_owned).into_iter();
    let ids = special.chain(tokens).zip(0..);
    ids.map(|(token, id)| (token, json!(id))).collect()
}

fn write(dir: &Path, pre_tokenizer: Value, decoder: Value, model: Value) {
    let added = SPECIAL.iter().enumerate().map(|(id, content)| {
        json!({
            "id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
            ],
            "pair": [],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        },
        "decoder": decoder,
        "model": model,
    });
    let file = dir.join("tokenizer.json");
    fs::write(&file, tokenizer.to_string())
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
