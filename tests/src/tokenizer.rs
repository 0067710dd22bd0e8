//! Tokenizers as `tokenizer.json`.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

/// Tokens of [`write_bytes`].
pub const BYTE_VOCABULARY: usize = 3 + 256;

/// Writes a tokenizer whose tokens are bytes, behind `<unk>`, the beginning and the end of a text
/// (0, 1 and 2). Texts begin with their beginning.
///
/// # Panics
///
/// When the file cannot be written.
pub fn write_bytes(dir: &Path) {
    let special = ["<unk>", "<s>", "</s>"];
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = special.iter().map(ToString::to_string).chain(bytes);
    let vocab = tokens.zip(0..).map(|(token, id)| (token, json!(id)));
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({
            "id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<Value>>(),
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
            ],
            "pair": [],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }],
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": "<unk>",
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": true,
            "vocab": vocab.collect::<Map<_, _>>(),
            "merges": [],
        },
    });
    let file = dir.join("tokenizer.json");
    fs::write(&file, tokenizer.to_string())
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
