//! The tokenizer, chat templates and special tokens of a file.

use quest_burn_models::{source, tokenizer::Tokenizer};
use quest_burn_tests::gguf::{Gguf, Meta};

use super::{folder, small};

fn tokenizer_of(change: impl FnOnce(&mut Gguf)) -> Result<Option<Tokenizer>, String> {
    let dir = folder();
    let path = dir.path().join("model.gguf");
    let mut gguf = small();
    change(&mut gguf);
    gguf.write(&path);
    let source = source::open(&path).unwrap();
    source.tokenizer().map_err(|error| error.to_string())
}

#[test]
fn tokens_are_merged_and_digits_stand_alone() {
    let tokenizer = tokenizer_of(|_| ()).unwrap().unwrap();
    assert_eq!(tokenizer.encode("ab b12").unwrap(), [7, 6, 8, 9]);
    assert_eq!(tokenizer.encode("<s>ab").unwrap(), [1, 7]);
    assert_eq!(tokenizer.decode(&[7, 6, 2]).unwrap(), "ab b");
}

#[test]
fn the_file_says_what_a_text_begins_and_ends_with() {
    let asked = |key: &str| {
        let tokenizer = tokenizer_of(|gguf| gguf.set(key, Meta::Bool(true)));
        tokenizer.unwrap().unwrap().encode("a").unwrap()
    };
    assert_eq!(asked("tokenizer.ggml.add_bos_token"), [1, 3]);
    assert_eq!(asked("tokenizer.ggml.add_eos_token"), [3, 2]);
    let llama = |gguf: &mut Gguf| gguf.set("tokenizer.ggml.pre", Meta::Text("llama-bpe".into()));
    let tokenizer = tokenizer_of(llama).unwrap().unwrap();
    assert_eq!(tokenizer.encode("a").unwrap(), [1, 3], "as Llama 3 has it");
}

#[test]
fn pre_tokenizers_that_are_not_known_are_named() {
    for name in ["default", "of-my-own"] {
        let set = |gguf: &mut Gguf| gguf.set("tokenizer.ggml.pre", Meta::Text(name.into()));
        let error = tokenizer_of(set).unwrap_err();
        let expected = format!("unsupported pre-tokenizer (`tokenizer.ggml.pre`) `{name}`");
        assert!(error.contains(&expected), "{error}");
        assert!(
            error.contains("llama-bpe") && error.contains("tekken"),
            "{error}"
        );
    }
    let bert = |gguf: &mut Gguf| gguf.set("tokenizer.ggml.model", Meta::Text("bert".into()));
    let error = tokenizer_of(bert).unwrap_err();
    assert!(
        error.contains("unsupported tokenizer model `bert`; supported: gpt2, llama"),
        "{error}"
    );
}

#[test]
fn pieces_of_sentence_piece_are_merged_by_their_scores() {
    let tokenizer = tokenizer_of(|gguf| {
        let mut texts = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
        let mut kinds = vec![2, 3, 3];
        texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        kinds.extend([6; 256]);
        texts.extend(["\u{2581}a", "ab", "\u{2581}", "a", "b"].map(str::to_owned));
        kinds.extend([1; 5]);
        let scores = (0..texts.len()).map(|id| -(id as f32)).collect();
        gguf.set("tokenizer.ggml.model", Meta::Text("llama".into()));
        gguf.set("tokenizer.ggml.tokens", Meta::Texts(texts));
        gguf.set("tokenizer.ggml.token_type", Meta::I32s(kinds));
        gguf.set("tokenizer.ggml.scores", Meta::F32s(scores));
    });
    let tokenizer = tokenizer.unwrap().unwrap();
    assert_eq!(tokenizer.encode("ab\n").unwrap(), [1, 259, 263, 3 + 10]);
    assert_eq!(tokenizer.decode(&[259, 263, 13]).unwrap(), "ab\n");
}

#[test]
fn conversations_and_ends_come_from_the_file() {
    let dir = folder();
    let path = dir.path().join("model.gguf");
    let mut gguf = small();
    gguf.set(
        "tokenizer.chat_template.tool_use",
        Meta::Text("tools".into()),
    );
    gguf.set("tokenizer.ggml.eot_token_id", Meta::U32(0));
    gguf.write(&path);
    let source = source::open(&path).unwrap();
    let templates = source.chat_templates().unwrap().unwrap();
    assert_eq!(
        templates.names().collect::<Vec<_>>(),
        ["default", "tool_use"]
    );
    let special = source.special_tokens().unwrap();
    let special = special.iter().collect::<Vec<_>>();
    assert_eq!(special, [("bos_token", "<s>"), ("eos_token", "</s>")]);
    assert_eq!(source.generation().unwrap().stop_token_ids, [2, 0]);
}
