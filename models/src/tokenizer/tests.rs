use std::fs;

use serde_json::{Value, json};

use super::*;

/// Words, and bytes for everything else, as SentencePiece models have them.
fn tokenizer_json() -> Value {
    let mut vocab = json!({ "<unk>": 0, "<s>": 1, "</s>": 2, "\u{2581}deep": 3, "\u{2581}sea": 4 });
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = json!(5 + byte);
    }
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    json!({
        "version": "1.0",
        "truncation": {
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        },
        "padding": {
            "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"
        },
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                { "type": "Prepend", "prepend": "\u{2581}" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" },
            ],
        },
        "pre_tokenizer": {
            "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never",
            "split": true,
        },
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
            "decoders": [
                { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
            ],
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "byte_fallback": true, "ignore_merges": true, "vocab": vocab, "merges": [],
        },
    })
}

fn tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(Tokenizer::FILE);
    fs::write(path, tokenizer_json().to_string()).unwrap();
    Tokenizer::from_dir(dir.path()).unwrap()
}

fn byte(byte: u8) -> u32 {
    5 + u32::from(byte)
}

#[test]
fn text_is_encoded_whole_with_special_tokens_and_comes_back_without() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("deep deep sea").unwrap();
    assert_eq!(ids, [1, 3, 3, 4], "neither truncated to 2 nor padded to 8");
    assert_eq!(tokenizer.decode(&ids).unwrap(), "deep deep sea");
}

#[test]
fn a_continuation_has_no_special_tokens() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.encode_continuation("deep sea").unwrap(), [3, 4]);
    assert!(tokenizer.encode_continuation("").unwrap().is_empty());
}

#[test]
fn a_stream_gives_whole_characters_and_keeps_spaces() {
    let tokenizer = tokenizer();
    let mut stream = tokenizer.decode_stream();
    let euro = "\u{20ac}".bytes().map(byte);
    let ids = [1, 3].into_iter().chain(euro).chain([4, 2]);
    let texts = ids.map(|id| stream.push(id).unwrap()).collect::<Vec<_>>();
    assert_eq!(texts, ["", "deep", "", "", "\u{20ac}", " sea", ""]);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn a_stream_that_ends_inside_a_character_says_so_at_the_end() {
    let tokenizer = tokenizer();
    let mut stream = tokenizer.decode_stream();
    assert_eq!(stream.push(3).unwrap(), "deep");
    assert_eq!(stream.push(byte(0xe2)).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
}

#[test]
fn bytes_that_are_not_text_do_not_end_a_stream() {
    let tokenizer = tokenizer();
    let mut stream = tokenizer.decode_stream();
    let mut text = String::new();
    // 'a' is given out before 0xc3 makes the run of bytes invalid.
    for id in [3, byte(b'a'), byte(0xc3), 4, 3, byte(b'b')] {
        text += &stream.push(id).unwrap();
    }
    assert_eq!(text + &stream.finish().unwrap(), "deepa\u{fffd} sea deepb");
}

#[test]
fn a_stream_that_follows_a_prompt_keeps_the_space_of_its_first_word() {
    let tokenizer = tokenizer();
    let mut stream = tokenizer.decode_stream_after(&[1, 3]).unwrap();
    assert_eq!(stream.push(4).unwrap(), " sea");
    // A prompt that ends inside a character.
    let mut stream = tokenizer
        .decode_stream_after(&[3, byte(0xe2), byte(0x82)])
        .unwrap();
    assert_eq!(stream.push(byte(0xac)).unwrap(), "\u{20ac}");
    assert_eq!(stream.finish().unwrap(), "");
    // Nothing but the beginning of a text.
    let mut stream = tokenizer.decode_stream_after(&[1]).unwrap();
    assert_eq!(stream.push(3).unwrap(), "deep");
}

#[test]
fn a_beginning_is_never_doubled() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.encode("<s>deep").unwrap(), [1, 3]);
    assert_eq!(tokenizer.encode("<s><s>deep").unwrap(), [1, 1, 3]);
    assert_eq!(tokenizer.encode_continuation("<s>deep").unwrap(), [1, 3]);
}

#[test]
fn the_configuration_may_ask_for_a_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let mut json = tokenizer_json();
    json["post_processor"] = Value::Null;
    fs::write(dir.path().join(Tokenizer::FILE), json.to_string()).unwrap();
    let ids = |config: Value| {
        fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let tokenizer = Tokenizer::from_dir(dir.path());
        tokenizer.map(|tokenizer| tokenizer.encode("deep").unwrap())
    };
    assert_eq!(ids(json!({ "bos_token": "<s>" })).unwrap(), [3]);
    assert_eq!(
        ids(json!({ "bos_token": "<s>", "add_bos_token": false })).unwrap(),
        [3]
    );
    let asked = json!({ "bos_token": { "content": "<s>" }, "add_bos_token": true });
    assert_eq!(ids(asked).unwrap(), [1, 3]);
    let unknown = ids(json!({ "bos_token": "<bos>", "add_bos_token": true })).unwrap_err();
    assert!(unknown.to_string().contains("found `<bos>`"), "{unknown}");
}

#[test]
fn what_makes_the_library_panic_is_an_error_or_works() {
    let dir = tempfile::tempdir().unwrap();
    let read = |change: &dyn Fn(&mut Value)| {
        let mut json = tokenizer_json();
        change(&mut json);
        fs::write(dir.path().join(Tokenizer::FILE), json.to_string()).unwrap();
        Tokenizer::from_dir(dir.path())
    };
    let strip = json!({ "type": "Strip", "content": "a", "start": 0, "stop": 2 });
    let tokenizer = read(&|json| json["decoder"] = strip.clone()).unwrap();
    assert_eq!(tokenizer.decode(&[byte(b'a')]).unwrap(), "<0x61>");
    let table = json!({ "<bos>": { "id": "<bos>", "ids": [1], "tokens": ["<bos>"] } });
    let error = read(&|json| json["post_processor"]["special_tokens"] = table.clone());
    assert!(error.unwrap_err().to_string().contains("`<s>`"));
}

/// Any value of the file replaced by another, reading and using it gives ids or an error.
#[test]
fn garbled_tokenizers_do_not_panic() {
    let mut places = Vec::new();
    collect_places(&tokenizer_json(), String::new(), &mut places);
    let dir = tempfile::tempdir().unwrap();
    let others = [
        json!(null),
        json!(-1),
        json!(3),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
    ];
    for place in places {
        for other in &others {
            let mut json = tokenizer_json();
            *json.pointer_mut(&place).unwrap() = other.clone();
            fs::write(dir.path().join(Tokenizer::FILE), json.to_string()).unwrap();
            if let Ok(tokenizer) = Tokenizer::from_dir(dir.path()) {
                let _ = tokenizer.encode("deep a \u{20ac}");
                let _ = tokenizer.decode(&[1, 3, byte(b'a'), 4, 99999]);
            }
        }
    }
}

/// Pointers to everything but the vocabulary.
fn collect_places(value: &Value, at: String, places: &mut Vec<String>) {
    if !at.is_empty() {
        places.push(at.clone());
    }
    match value {
        Value::Object(fields) if !at.ends_with("/vocab") => {
            for (name, value) in fields {
                collect_places(value, format!("{at}/{name}"), places);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                collect_places(value, format!("{at}/{index}"), places);
            }
        }
        _ => {}
    }
}

#[test]
fn files_that_are_no_tokenizer_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    fs::write(dir.path().join(Tokenizer::FILE), pointer).unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("LFS"), "{error}");
    fs::write(dir.path().join(Tokenizer::FILE), "{\"model\": 7").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err();
    assert!(matches!(error, TokenizerError::Parse { .. }));
}
