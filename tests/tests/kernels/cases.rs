//! The cases that the kernels are tried on, and the device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{DType, Device};
use quest_burn::{cache::KvStorage, digest::DigestKind, kernels};
use rand::{SeedableRng, rngs::StdRng};

use super::bench::Bench;

/// One problem: a pool of pages that several sequences share.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) page_size: usize,
    pub(super) head_dim: usize,
    pub(super) n_kv_heads: usize,
    pub(super) group: usize,
    pub(super) lengths: Vec<usize>,
    pub(super) ks: Vec<usize>,
}

pub(super) fn case(
    (page_size, head_dim): (usize, usize),
    (n_kv_heads, group): (usize, usize),
    lengths: &[usize],
    ks: &[usize],
) -> Case {
    Case {
        page_size,
        head_dim,
        n_kv_heads,
        group,
        lengths: lengths.to_vec(),
        ks: ks.to_vec(),
    }
}

/// Page sizes, head dims and groups at their extremes, lengths at and around page edges.
pub(super) fn catalogue() -> Vec<Case> {
    vec![
        case((16, 128), (2, 4), &[1, 16, 17, 100, 0], &[1, 3, 7]),
        case((16, 128), (3, 1), &[333], &[5, 20, 21, 30]),
        case((8, 64), (1, 3), &[7, 8, 9, 64], &[1, 2, 8]),
        case((32, 32), (2, 2), &[31, 32, 200], &[2, 6]),
        case((64, 80), (1, 8), &[63, 64, 65, 300], &[3]),
        case((128, 256), (1, 2), &[129, 500], &[1, 3]),
        case((16, 8), (4, 2), &[40, 5], &[2]),
        case((16, 16), (1, 16), &[77, 160], &[4]),
        case((16, 96), (2, 7), &[50], &[3]),
        case((16, 64), (2, 2), &[5001], &[64, 313]),
        case((8, 48), (1, 5), &[2048, 2049, 1], &[100]),
        case((128, 128), (2, 2), &[129, 700], &[1, 3]),
        case((8, 128), (1, 8), &[203, 1, 0], &[2, 26, 40]),
        case((16, 112), (1, 12), &[35], &[2]),
        case((32, 64), (1, 32), &[70, 400], &[5]),
        case((16, 128), (1, 16), &[333, 17], &[4]),
        case((16, 128), (1, 17), &[40], &[2]),
    ]
}

/// The device, for one test at a time: while a thread records a CUDA graph, no other may wait for
/// the device.
pub(super) fn device() -> (Device, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let device = Device::default();
    assert!(kernels::supported(&device), "{device:?} runs the kernels");
    (device, alone)
}

pub(super) fn dtypes(device: &Device) -> Vec<DType> {
    let dtypes: Vec<DType> = [DType::F32, DType::F16, DType::BF16]
        .into_iter()
        .filter(|&dtype| kernels::supports(device, dtype, 128))
        .collect();
    assert!(dtypes.contains(&DType::F32));
    println!("{device:?}: {dtypes:?}");
    dtypes
}

pub(super) fn rng() -> StdRng {
    let seed = quest_burn_tests::seed();
    println!("QUEST_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A batch whose first sequence has more tokens than all others together, enough to be split further than they are.
fn ragged() -> Vec<Case> {
    let mut lengths = vec![70; 16];
    lengths[0] = 9001;
    vec![case((8, 64), (8, 4), &lengths, &[90])]
}

/// Calls `test` for [`ragged`] batches, in every form of rows and dtype of the device.
pub(super) fn for_each_ragged(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_of(&ragged(), &[DigestKind::MinMax], &KvStorage::ALL, test);
}

/// Calls `test` for every case, form of rows and dtype of the device, with the paper's digests.
pub(super) fn for_each(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_of(&catalogue(), &[DigestKind::MinMax], &KvStorage::ALL, test);
}

/// The same with every kind of digests, of rows in the dtype.
pub(super) fn for_each_digest(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_of(&catalogue(), DigestKind::ALL, &[KvStorage::Full], test);
}

/// The same with every kind of digests of rows in every form.
pub(super) fn for_each_digest_and_form(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_of(&catalogue(), DigestKind::ALL, &KvStorage::ALL, test);
}

fn for_each_of(
    cases: &[Case],
    digests: &[DigestKind],
    storages: &[KvStorage],
    test: impl Fn(&mut Bench, &mut StdRng),
) {
    let ((device, _alone), mut rng) = (device(), rng());
    for dtype in dtypes(&device) {
        for case in cases {
            let taken = storages
                .iter()
                .filter(|&&storage| kernels::takes_rows(&device, storage));
            for &storage in taken {
                // Rows in 8 bits have whole loads of 16 bytes.
                if storage == KvStorage::Int8 && !case.head_dim.is_multiple_of(16) {
                    continue;
                }
                for &digest in digests {
                    let (case, rng) = (case.clone(), &mut rng);
                    let mut bench = Bench::stored(case, digest, storage, dtype, &device, rng);
                    test(&mut bench, rng);
                }
            }
        }
    }
}
