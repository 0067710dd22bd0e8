//! What the native operations are tried on.

use std::fmt;

use burn::tensor::DType;
use quest_burn::{cache::KvStorage, digest::DigestKind};
use quest_burn_tests::catalogue::{AttentionShape, attention_shapes};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// A cache of one layer, and the numbers that are drawn for it.
pub(super) struct Case {
    pub shape: AttentionShape,
    pub digest: DigestKind,
    pub dtype: DType,
    pub storage: KvStorage,
    pub seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shape,
            digest,
            dtype,
            storage,
            seed,
        } = self;
        write!(
            f,
            "{dtype:?}, rows {storage}, {digest}, {shape}, seed {seed}"
        )
    }
}

/// Every shape with every one of some kinds of digests, in dtypes and storages that [`forms`] says.
pub(super) fn cases(digests: &[DigestKind], seed: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, shape) in shapes().iter().enumerate() {
        for (j, &digest) in digests.iter().enumerate() {
            for (dtype, storage) in forms(shape, i + j) {
                cases.push(Case {
                    shape: shape.clone(),
                    digest,
                    dtype,
                    storage,
                    seed,
                });
            }
        }
    }
    cases
}

/// The dtypes and storages of a shape.
///
/// How rows are read depends on their numbers, their width and the heads that share them: shapes of other
/// heads meet every dtype. Which rows are read depends on pages and lengths alone: such shapes meet one dtype
/// each, in turn, so that every page size and every kind of length meets all three. Rows in 8 bits are
/// of one dtype each time: it is only what they are rounded from.
fn forms(shape: &AttentionShape, turn: usize) -> Vec<(DType, KvStorage)> {
    let in_turn = DTYPES[turn % DTYPES.len()];
    let mut forms = match has_other_heads(shape) {
        true => DTYPES.map(|dtype| (dtype, KvStorage::Full)).to_vec(),
        false => vec![(in_turn, KvStorage::Full)],
    };
    if shape.head_dim.is_multiple_of(16) {
        forms.push((in_turn, KvStorage::Int8));
    }
    forms
}

/// Whether its heads are others than those of the shapes that differ in pages.
fn has_other_heads(shape: &AttentionShape) -> bool {
    (shape.n_heads, shape.n_kv_heads, shape.head_dim) != (4, 2, 32)
}

/// The catalogue, and contexts that are split over tasks and over the reference's blocks.
pub(super) fn shapes() -> Vec<AttentionShape> {
    let mut shapes = attention_shapes();
    for (n_heads, n_kv_heads, head_dim, lengths, budget_pages) in [
        (32, 8, 128, vec![1030], 40),
        (3, 3, 2, vec![700, 257, 256], 20),
        (5, 1, 40, vec![255, 900], 17),
    ] {
        shapes.push(AttentionShape {
            page_size: 16,
            head_dim,
            n_heads,
            n_kv_heads,
            lengths,
            budget_pages,
        });
    }
    shapes
}

#[test]
fn pages_digests_and_shapes_meet_every_dtype_and_storage() {
    let meet_all = |cases: &[Case], what: &str, are_met: &dyn Fn(&Case) -> bool| {
        for (dtype, storage) in DTYPES
            .map(|dtype| KvStorage::ALL.map(|s| (dtype, s)))
            .concat()
        {
            let is_found = |case: &Case| (case.dtype, case.storage) == (dtype, storage);
            let mut met = cases.iter().filter(|case| are_met(case));
            assert!(met.any(is_found), "{what}: {dtype:?}, {storage}");
        }
    };
    let (of_one, of_all) = (cases(&[DigestKind::MinMax], 0), cases(DigestKind::ALL, 0));
    for page_size in [8, 16, 32, 64, 128] {
        let are_met = |case: &Case| case.shape.page_size == page_size;
        meet_all(&of_one, &format!("pages of {page_size}"), &are_met);
    }
    for digest in DigestKind::ALL {
        let are_met = |case: &Case| case.digest == *digest;
        meet_all(&of_all, &digest.to_string(), &are_met);
    }
    for shape in shapes() {
        // With one kind of digests or another.
        if shape.head_dim.is_multiple_of(16) {
            meet_all(&of_all, &shape.to_string(), &|case: &Case| {
                case.shape == shape
            });
        }
    }
}
