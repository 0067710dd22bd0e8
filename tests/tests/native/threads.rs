//! However many threads share the work, the results are the same.

use std::process::Command;

use burn::tensor::DType;
use quest_burn::{PageSharing, cache::KvStorage, digest::DigestKind, ops, policy::Pages};
use quest_burn_tests::{arrays::values, catalogue::AttentionShape};

use super::{
    case::{Case, shapes},
    filled::Filled,
    selection,
};

/// Set for a process that only hashes results.
const HASHES: &str = "QUEST_TEST_HASHES";

/// Bits of the results over all shapes, mixed into one number.
fn hash_of_results() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |output: &[f32]| {
        for x in output {
            hash = (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (dtype, storage) in [
        (DType::F32, KvStorage::Full),
        (DType::F16, KvStorage::Full),
        (DType::BF16, KvStorage::Full),
        (DType::F32, KvStorage::Int8),
    ] {
        let is_kept = |shape: &AttentionShape| {
            storage == KvStorage::Full || shape.head_dim.is_multiple_of(16)
        };
        for shape in shapes().into_iter().filter(is_kept) {
            let case = Case {
                shape,
                digest: DigestKind::MeanVar,
                dtype,
                storage,
                seed: 5,
            };
            for output in Filled::prefilled(&case, ops::append, ops::prefill_attention) {
                mix(&values(&output));
            }
            let mut filled = Filled::natively(&case);
            let scores = filled.scores(PageSharing::KvHead);
            let chosen = selection(&case.shape, 1);
            let pages = ops::top_pages(scores, &filled.step, &chosen);
            for pages in [Pages::All, pages] {
                mix(&values(&filled.attend(&pages)));
            }
        }
    }
    hash
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    const NAME: &str = "threads::results_do_not_depend_on_the_number_of_threads";
    const MARK: &str = "hash of results: ";
    if std::env::var_os(HASHES).is_some() {
        return println!("{MARK}{}", hash_of_results());
    }
    let hash_with = |threads: &str| {
        let test = std::env::current_exe().expect("the test that runs has a path");
        let output = Command::new(test)
            .args([NAME, "--exact", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .env(HASHES, "")
            .output()
            .expect("the test starts again");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let hash = stdout.split_once(MARK).map(|(_, rest)| {
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].to_owned()
        });
        hash.unwrap_or_else(|| panic!("a hash was expected, found {stdout}"))
    };
    let alone = hash_with("1");
    for threads in ["2", "3", "16"] {
        assert_eq!(hash_with(threads), alone, "{threads} threads");
    }
}
