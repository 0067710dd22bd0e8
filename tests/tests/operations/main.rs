//! The operations of a decode step against naive oracles, over the catalogue of shapes, in caches
//! whose unfilled rows are NaN.

mod attention;
mod digests;
mod refusal;
mod scores;
mod selection;

use burn::tensor::{Device, Tensor};
use proptest::{prelude::*, sample::select};
use quest_burn::{digest::DigestKind, policy::Pages};
use quest_burn_tests::{
    arrays::{random, rows},
    cases,
    catalogue::{AttentionShape, attention_shapes},
    devices::devices,
    filled::Filled,
};
use rand::{SeedableRng, rngs::StdRng};

use self::{attention::assert_listed_attention, scores::assert_page_scores};

/// f32 sums of up to some thousand products of values in -2..2.
const TOLERANCE: f64 = 2e-5;

/// Calls `test` with a filled cache and a query, for every device and shape, with the paper's digests.
fn for_each_shape(test: impl Fn(&AttentionShape, &Filled, Tensor<3>, &str)) {
    for_each_of(&[DigestKind::MinMax], test);
}

/// The same with every kind of digests.
fn for_each_digest(test: impl Fn(&AttentionShape, &Filled, Tensor<3>, &str)) {
    for_each_of(DigestKind::ALL, test);
}

fn for_each_of(digests: &[DigestKind], test: impl Fn(&AttentionShape, &Filled, Tensor<3>, &str)) {
    for device in devices() {
        for (seed, shape) in attention_shapes().iter().enumerate() {
            for &digest in digests {
                let (filled, query) = filled(shape, digest, &device.device, seed as u64);
                test(
                    shape,
                    &filled,
                    query,
                    &format!("{device}, {shape}, {digest}"),
                );
            }
        }
    }
}

fn filled(
    shape: &AttentionShape,
    digest: DigestKind,
    device: &Device,
    seed: u64,
) -> (Filled, Tensor<3>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let filled = Filled::new(shape, digest, device, &mut rng);
    let query = [shape.lengths.len(), shape.n_heads, shape.head_dim];
    (filled, random(query, device, &mut rng))
}

/// Query heads of one sequence.
fn heads_of(query: &Tensor<3>, sequence: usize) -> Vec<Vec<f64>> {
    rows(&query.clone().slice([sequence..sequence + 1]))
}

/// Pages that each list of each sequence names.
fn listed(pages: Pages) -> Vec<Vec<Vec<usize>>> {
    let Pages::Listed { ids, counts } = pages else {
        panic!("a list of pages was expected");
    };
    let [_, lists, k] = ids.dims();
    let ids = ids
        .into_data()
        .convert::<i64>()
        .try_to_vec::<i64>()
        .expect("converted to i64");
    counts
        .iter()
        .zip(ids.chunks(lists * k))
        .map(|(&count, ids)| {
            let list = |ids: &[i64]| {
                assert!(
                    ids[count..].iter().all(|&id| id == -1),
                    "padding in {ids:?}"
                );
                ids[..count].iter().map(|&id| id as usize).collect()
            };
            ids.chunks(k).map(list).collect()
        })
        .collect()
}

fn shape() -> impl Strategy<Value = AttentionShape> {
    (
        select(vec![8, 16, 32, 64, 128]),
        select(vec![2, 8, 24, 40, 128]),
        (1usize..5, 1usize..5),
        prop::collection::vec(1usize..300, 1..4),
        1usize..12,
    )
        .prop_map(
            |(page_size, head_dim, (n_kv_heads, group), lengths, budget_pages)| AttentionShape {
                page_size,
                head_dim,
                n_heads: n_kv_heads * group,
                n_kv_heads,
                lengths,
                budget_pages,
            },
        )
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn scores_and_attention_equal_the_naive_ones(
        shape in shape(),
        digest in select(DigestKind::ALL),
        seed: u64,
    ) {
        for device in devices() {
            let (filled, query) = filled(&shape, digest, &device.device, seed);
            assert_page_scores(&shape, &filled, &query, device.name.as_str());
            assert_listed_attention(&shape, &filled, &query, device.name.as_str());
        }
    }
}
