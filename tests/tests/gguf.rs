//! GGUF files against folders with the same weights, and files that are cut, garbled or of something
//! else.

use std::{fs, ops::ControlFlow, path::Path};

use burn::tensor::{DType, Device};
use quest_burn_linear::blocks::BlockFormat;
use quest_burn_models::{
    config::ModelConfig,
    convert::{Conversion, convert},
    source,
    tokenizer::Tokenizer,
    weights::KeptBlocks,
};
use quest_burn_tests::{
    arrays::assert_close,
    gguf::{Gguf, GgufSpec, Meta, Pair, VOCABULARY},
    loaded::Loaded,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn ids(n: usize) -> Vec<u32> {
    let ids = 0..n as u32;
    ids.map(|i| (i * i * 7 + 3) % VOCABULARY as u32).collect()
}

fn nlls(path: &Path) -> Vec<f64> {
    Loaded::new(path, &Device::default(), DType::F32).dense_nlls(&ids(40))
}

fn assert_same(spec: &GgufSpec) {
    let (dir, pair) = (folder(), Pair::new(spec));
    let file = dir.path().join("model.gguf");
    pair.gguf.write(&file);
    let hugging_face = folder();
    pair.write_folder(hugging_face.path());
    let expected_nlls = nlls(hugging_face.path());
    assert_eq!(nlls(&file), expected_nlls, "{spec:?}");

    let converted = folder();
    let source = source::open(&file).unwrap();
    let go_on = Box::new(|_, _| ControlFlow::Continue(()));
    convert(&*source, converted.path(), &Conversion::default(), go_on).unwrap();
    assert_eq!(nlls(converted.path()), expected_nlls, "{spec:?}, converted");
    let of_converted = ModelConfig::from_dir(converted.path()).unwrap();
    let dtype = match spec.format {
        BlockFormat::F16 => DType::F16,
        BlockFormat::BF16 => DType::BF16,
        _ => DType::F32,
    };
    assert_eq!(of_converted.dtype, Some(dtype), "{spec:?}");

    let config = ModelConfig::from_dir(&file).unwrap();
    let expected = ModelConfig::from_dir(hugging_face.path()).unwrap();
    for config in [config, of_converted] {
        let expected = ModelConfig {
            dtype: config.dtype,
            ..expected.clone()
        };
        assert_eq!(config, expected, "{spec:?}");
    }
}

#[test]
fn every_format_is_what_its_blocks_stand_for() {
    for (&format, seed) in BlockFormat::ALL.iter().zip(1..) {
        assert_same(&GgufSpec {
            format,
            seed,
            ..GgufSpec::default()
        });
    }
}

#[test]
fn every_architecture_is_as_its_folder() {
    for architecture in ["llama", "qwen2", "qwen3"] {
        for tied in [false, true] {
            assert_same(&GgufSpec {
                architecture,
                tied,
                format: BlockFormat::Q4_K,
                ..GgufSpec::default()
            });
        }
    }
}

/// Rows of a few tokens are rounded to 8 bits on the CPU, those of a prompt are not; logits are made of
/// single rows and of many.
#[test]
fn a_projection_to_logits_of_its_own_stays_in_its_blocks() {
    for (format, is_kept) in [(BlockFormat::Q6_K, true), (BlockFormat::F16, false)] {
        let kept = |tied| {
            let spec = GgufSpec {
                format,
                tied,
                ..GgufSpec::default()
            };
            let dir = folder();
            let file = dir.path().join("model.gguf");
            Pair::new(&spec).gguf.write(&file);
            let device = Device::flex();
            let stored = Loaded::stored(&file, &device, DType::F32).dense_nlls(&ids(40));
            assert_close(&stored, &nlls(&file), 1e-4, format.name());
            let source = source::open(&file).unwrap();
            let config = source.config().unwrap();
            let kept = KeptBlocks::of(&*source, &config, &device).unwrap();
            kept.map_or(0, |kept| kept.weights)
        };
        let (of_own, of_embedding) = (kept(false), kept(true));
        let head = (VOCABULARY * 256) as u64;
        let expected = of_embedding + if is_kept { head } else { 0 };
        assert_eq!(of_own, expected, "{format}");
    }
}

#[test]
fn factors_of_the_rotary_frequencies_are_applied() {
    let factors = (0..32).map(|pair| 1.0 + pair as f32 / 4.0).collect();
    let spec = GgufSpec {
        rope_factors: Some(factors),
        ..GgufSpec::default()
    };
    assert_same(&spec);
    let (dir, plain) = (folder(), folder());
    let (file, plain) = (dir.path().join("a.gguf"), plain.path().join("a.gguf"));
    Pair::new(&spec).gguf.write(&file);
    let no_factors = GgufSpec {
        rope_factors: None,
        ..spec
    };
    Pair::new(&no_factors).gguf.write(&plain);
    assert_ne!(nlls(&file), nlls(&plain));
}

/// The tensors in three files, of which the first has the metadata.
#[test]
fn shards_are_one_model_whichever_is_named() {
    let dir = folder();
    let whole = Pair::new(&GgufSpec::default()).gguf;
    let path = |number: usize| dir.path().join(format!("m-{number:05}-of-00003.gguf"));
    let per_shard = whole.tensors.len().div_ceil(3);
    for (index, tensors) in whole.tensors.chunks(per_shard).enumerate() {
        let mut shard = Gguf {
            pairs: if index == 0 {
                whole.pairs.clone()
            } else {
                Vec::new()
            },
            tensors: tensors.to_vec(),
        };
        shard.set("split.no", Meta::U32(index as u32));
        shard.set("split.count", Meta::U32(3));
        shard.write(&path(index + 1));
    }
    let single = folder();
    let file = single.path().join("model.gguf");
    whole.write(&file);
    let expected = nlls(&file);
    for found in [path(1), path(3), dir.path().to_owned()] {
        assert_eq!(nlls(&found), expected, "{}", found.display());
    }
    fs::remove_file(path(2)).unwrap();
    let error = source::open(&path(3)).unwrap_err().to_string();
    assert!(
        error.contains("expected the file `m-00002-of-00003.gguf`"),
        "{error}"
    );
}

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
            "unsupported architecture `mamba`; supported: gemma2, gemma3, llama, phi3, qwen2, qwen3, qwen3moe",
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

/// Everything that can be asked of a file, the weights of one tensor at a time.
fn ask_everything(path: &Path) -> bool {
    let Ok(source) = source::open(path) else {
        return false;
    };
    let _ = (source.config(), source.generation());
    let _ = (source.chat_templates(), source.special_tokens());
    if let Ok(Some(tokenizer)) = source.tokenizer() {
        let _ = tokenizer.encode("a b");
    }
    let Ok(tensors) = source.tensors() else {
        return false;
    };
    let mut tensors = tensors.into_iter();
    tensors.all(|tensor| tensor.into_plain(DType::F32).into_bytes().is_ok())
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

#[test]
fn files_cut_anywhere_are_refused() {
    let dir = folder();
    let path = dir.path().join("model.gguf");
    let whole = small().bytes();
    let heads = (0..2000).step_by(3);
    for cut in heads.chain((2000..whole.len() - 1).step_by(whole.len() / 40)) {
        fs::write(&path, &whole[..cut]).unwrap();
        assert!(!ask_everything(&path), "cut at {cut}");
    }
    fs::write(&path, &whole).unwrap();
    assert!(ask_everything(&path));
}

/// Bytes of the head changed at random, several at once: an error or a model, never a panic, and no
/// allocation beyond the file's size (a claim of 2^60 elements would abort).
#[test]
fn garbled_heads_neither_panic_nor_allocate() {
    let dir = folder();
    let path = dir.path().join("model.gguf");
    let whole = small().bytes();
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..1500 {
        let mut garbled = whole.clone();
        for _ in 0..rng.random_range(1..4) {
            let place = rng.random_range(4..2200);
            garbled[place] = match rng.random_range(0..3) {
                0 => 0xff,
                1 => garbled[place] ^ 1 << rng.random_range(0..8),
                _ => rng.random(),
            };
        }
        fs::write(&path, &garbled).unwrap();
        ask_everything(&path);
    }
}

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
