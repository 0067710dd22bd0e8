//! Page scores, and attention over pages.

use burn::tensor::{DType, Int, Tensor, TensorData};
use quest_burn::{
    GroupRule, PageScoring, PageSharing,
    kernels::{self, ReadPages, Scoring},
};
use quest_burn_tests::arrays::tolerance_of;
use rand::{rngs::StdRng, seq::SliceRandom};

use super::{
    bench::Bench,
    cases::{for_each, for_each_digest, for_each_ragged},
    numbers::{floats, poison},
    reference::relative_error,
};

fn pairs(n: usize, m: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (0..m).map(move |j| (i, j)))
}

#[test]
fn a_group_s_mean_is_the_mean_of_its_heads() {
    for_each_digest(|bench, _| {
        let (heads, group) = (bench.case.n_kv_heads, bench.case.group);
        let n_scores = bench.max_pages();
        let scores = |rule: PageScoring| {
            floats(kernels::page_scores(
                bench.device_query(),
                &bench.digests_of(bench.device_digests()),
                &bench.sequences(),
                Scoring {
                    page_size: bench.case.page_size,
                    rule,
                    n_scores,
                },
            ))
        };
        let deviations = Some("0.75".parse().unwrap());
        let of_heads = scores(PageScoring {
            deviations,
            ..PageSharing::QueryHead.into()
        });
        let of_groups = scores(PageScoring {
            deviations,
            group_rule: GroupRule::Mean,
            ..PageSharing::KvHead.into()
        });
        for sequence in 0..bench.batch() {
            for (head, page) in pairs(heads, bench.n_pages(sequence)) {
                let list = sequence * heads + head;
                let own = |g: usize| f64::from(of_heads[(list * group + g) * n_scores + page]);
                let expected = (0..group).map(own).sum::<f64>() / group as f64;
                let size = (0..group).map(|g| own(g).abs()).fold(1.0, f64::max);
                let found = f64::from(of_groups[list * n_scores + page]);
                let error = (found - expected).abs() / size;
                assert!(error < 1e-5, "{}: {found}, {expected}", bench.name());
            }
        }
    });
}

#[test]
fn page_scores_are_those_of_every_page() {
    for_each_digest(|bench, _| {
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let (heads, group) = match sharing {
                PageSharing::KvHead => (bench.case.n_kv_heads, bench.case.group),
                PageSharing::QueryHead => (bench.n_heads(), 1),
            };
            // As many scores as the table has pages, and fewer, as under a shorter bound.
            for n_scores in [bench.max_pages(), bench.max_pages() + 5] {
                poison(bench.batch() * heads * n_scores, &bench.device);
                let scores = floats(kernels::page_scores(
                    bench.device_query(),
                    &bench.digests_of(bench.device_digests()),
                    &bench.sequences(),
                    Scoring {
                        page_size: bench.case.page_size,
                        rule: sharing.into(),
                        n_scores,
                    },
                ));
                for sequence in 0..bench.batch() {
                    let n = bench.n_pages(sequence);
                    for head in 0..heads {
                        for page in 0..n {
                            let expected = (head * group..(head + 1) * group)
                                .map(|head| bench.page_score(sequence, head, page))
                                .fold(f64::MIN, f64::max);
                            let found = scores[(sequence * heads + head) * n_scores + page];
                            let error = (f64::from(found) - expected).abs();
                            // Relative to the size of the products, which may cancel.
                            let products = 4.0 * (bench.case.head_dim as f64).sqrt();
                            // Matrix instructions, which take halves, add with a few bits less.
                            let rounding = if bench.dtype == DType::F32 {
                                1e-6
                            } else {
                                4e-6
                            };
                            assert!(
                                error < rounding * products.max(expected.abs()),
                                "{} {sharing:?}: expected {expected}, found {found}",
                                bench.name()
                            );
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn attention_over_all_pages_is_softmax_attention() {
    for_each(|bench, _| {
        let out = attention(bench, None);
        let d = bench.case.head_dim;
        for sequence in 0..bench.batch() {
            let all: Vec<usize> = (0..bench.n_pages(sequence)).collect();
            for head in 0..bench.n_heads() {
                let found = &out[(sequence * bench.n_heads() + head) * d..][..d];
                let error = relative_error(found, &bench.attention(sequence, head, &all));
                assert!(
                    error < tolerance_of(bench.dtype),
                    "{}: {error:e}",
                    bench.name()
                );
            }
        }
    });
}

#[test]
fn attention_of_the_longest_of_a_ragged_batch_is_softmax_attention() {
    for_each_ragged(|bench, rng| {
        let dense = attention(bench, None);
        let d = bench.case.head_dim;
        for (sequence, head) in [(0, 0), (0, 31), (1, 5), (15, 31)] {
            let all: Vec<usize> = (0..bench.n_pages(sequence)).collect();
            let found = &dense[(sequence * bench.n_heads() + head) * d..][..d];
            let error = relative_error(found, &bench.attention(sequence, head, &all));
            assert!(
                error < tolerance_of(bench.dtype),
                "{}: {error:e}",
                bench.name()
            );
        }
        let lists = bench.case.n_kv_heads;
        let ids = random_lists(bench, lists, bench.max_pages(), rng);
        let listed = listed_attention(bench, &ids, lists, bench.max_pages());
        assert_eq!(listed, dense, "{}", bench.name());
    });
}

/// Attention over listed pages, or over all of them.
fn attention(bench: &Bench, pages: Option<Tensor<3, Int>>) -> Vec<f32> {
    let pages = match pages {
        Some(ids) => ReadPages::Listed(ids),
        None => ReadPages::All {
            bound: bench.max_pages(),
        },
    };
    poison(
        bench.batch() * bench.n_heads() * bench.case.head_dim,
        &bench.device,
    );
    floats(kernels::paged_attention(
        bench.device_query(),
        bench.pool(&bench.keys),
        bench.pool(&bench.values),
        pages,
        &bench.sequences(),
        bench.scale(),
    ))
}

/// `k` distinct pages of each sequence and list, ascending, -1 past its pages.
fn random_lists(bench: &Bench, lists: usize, k: usize, rng: &mut StdRng) -> Vec<i32> {
    let mut ids = Vec::new();
    for sequence in 0..bench.batch() {
        for _ in 0..lists {
            let mut pages: Vec<i32> = (0..bench.n_pages(sequence) as i32).collect();
            pages.shuffle(rng);
            pages.truncate(k);
            pages.sort_unstable();
            pages.resize(k, -1);
            ids.extend(pages);
        }
    }
    ids
}

pub(super) fn listed_attention(bench: &Bench, ids: &[i32], lists: usize, k: usize) -> Vec<f32> {
    let ids = TensorData::new(ids.to_vec(), [bench.batch(), lists, k]);
    let ids = Tensor::from_data(ids, (&bench.device, DType::I32));
    attention(bench, Some(ids))
}

#[test]
fn attention_over_listed_pages_reads_no_other_page() {
    for_each(|bench, rng| {
        let d = bench.case.head_dim;
        for lists in [bench.case.n_kv_heads, bench.n_heads()] {
            for k in bench.case.ks.clone() {
                let ids = random_lists(bench, lists, k, rng);
                let out = listed_attention(bench, &ids, lists, k);
                for sequence in 0..bench.batch() {
                    for head in 0..bench.n_heads() {
                        let list = sequence * lists + head * lists / bench.n_heads();
                        let pages: Vec<usize> = ids[list * k..(list + 1) * k]
                            .iter()
                            .filter_map(|&id| usize::try_from(id).ok())
                            .collect();
                        let found = &out[(sequence * bench.n_heads() + head) * d..][..d];
                        let expected = bench.attention(sequence, head, &pages);
                        let error = relative_error(found, &expected);
                        let name = bench.name();
                        assert!(
                            error < tolerance_of(bench.dtype),
                            "{name}, {lists} lists of {k}: {error:e}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn a_list_of_every_page_equals_dense_exactly() {
    for_each(|bench, rng| {
        let dense = attention(bench, None);
        let lists = bench.case.n_kv_heads;
        for k in [bench.max_pages(), bench.max_pages() + 70] {
            let ids = random_lists(bench, lists, k, rng);
            assert_eq!(
                listed_attention(bench, &ids, lists, k),
                dense,
                "{}",
                bench.name()
            );
        }
    });
}

/// NaN equals NaN: what nobody wrote must still be there.
pub(super) fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            f == e || (f.is_nan() && e.is_nan()),
            "{what} at {i}: expected {e}, found {f}"
        );
    }
}
