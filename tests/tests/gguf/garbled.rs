//! Files that are cut, and heads with changed bytes.

use std::{fs, path::Path};

use burn::tensor::DType;
use quest_burn_models::source;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{folder, small};

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
