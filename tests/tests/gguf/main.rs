//! GGUF files against folders with the same weights, and files that are cut, garbled or of something
//! else.

mod equality;
mod garbled;
mod refusals;
mod tokenizers;

use quest_burn_linear::blocks::BlockFormat;
use quest_burn_tests::gguf::{Gguf, GgufSpec, Meta, Pair};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A file of one layer's worth of bytes with a tokenizer, so that many changes can be tried.
fn small() -> Gguf {
    let mut gguf = Pair::new(&GgufSpec {
        format: BlockFormat::Q4_0,
        ..GgufSpec::default()
    })
    .gguf;
    gguf.tensors.truncate(4);
    set_tokenizer(&mut gguf);
    gguf
}

fn set_tokenizer(gguf: &mut Gguf) {
    let texts = [
        "<unk>", "<s>", "</s>", "a", "b", "\u{120}", "\u{120}b", "ab", "1", "2",
    ];
    let texts = texts.map(str::to_owned).to_vec();
    let kinds = (0..texts.len()).map(|id| if id < 3 { 3 } else { 1 });
    gguf.set("tokenizer.ggml.model", Meta::Text("gpt2".into()));
    gguf.set("tokenizer.ggml.pre", Meta::Text("smollm".into()));
    gguf.set("tokenizer.ggml.token_type", Meta::I32s(kinds.collect()));
    gguf.set("tokenizer.ggml.tokens", Meta::Texts(texts));
    let merges = ["\u{120} b", "a b"].map(str::to_owned).to_vec();
    gguf.set("tokenizer.ggml.merges", Meta::Texts(merges));
    gguf.set("tokenizer.ggml.bos_token_id", Meta::U32(1));
    gguf.set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    gguf.set(
        "tokenizer.chat_template",
        Meta::Text("{{ bos_token }}".into()),
    );
}
