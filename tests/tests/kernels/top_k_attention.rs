//! Attention over the pages with the highest scores, as one operation.

use burn::tensor::DType;
use quest_burn::{
    PageSharing,
    digest::DigestKind,
    kernels::{self, Scoring, TopPages},
    ops::PageSelection,
};
use quest_burn_tests::arrays::tolerance_of;

use super::{
    attention::listed_attention,
    bench::Bench,
    cases::{case, device, dtypes, for_each_digest_and_form, rng},
    numbers::{floats, ints, poison},
    reference::relative_error,
};

fn top_k_attention(
    bench: &Bench,
    k: usize,
    sink_pages: usize,
    recent_pages: usize,
    sharing: PageSharing,
) -> Vec<f32> {
    floats(kernels::top_k_attention(
        bench.device_query(),
        &bench.kv_pool(),
        &bench.sequences(),
        kernels::TopKPages {
            selection: PageSelection {
                k,
                sink_pages,
                recent_pages,
            },
            rule: sharing.into(),
            n_pages_bound: bench.max_pages(),
        },
        bench.scale(),
    ))
}

#[test]
fn selection_within_attention_reads_the_same_pages() {
    for_each_digest_and_form(|bench, _| {
        let mut ks = bench.case.ks.clone();
        ks.push(bench.max_pages() + 70);
        check_selection_within(bench, &ks);
    });
}

#[test]
fn selection_within_attention_takes_more_pages_than_16_bits_count() {
    let ((device, _alone), mut rng) = (device(), rng());
    let case = case((8, 8), (1, 1), &[65_540 * 8 - 3], &[]);
    let bench = Bench::new(case, DigestKind::MinMax, DType::F32, &device, &mut rng);
    check_selection_within(&bench, &[3, 64]);
}

fn check_selection_within(bench: &Bench, ks: &[usize]) {
    for (sharing, lists) in [
        (PageSharing::KvHead, bench.case.n_kv_heads),
        (PageSharing::QueryHead, bench.n_heads()),
    ] {
        for &k in ks {
            let (recent_pages, sink_pages) = (usize::from(k > 1), usize::from(k > 2));
            let page_size = bench.case.page_size;
            let scores = kernels::page_scores(
                bench.device_query(),
                &bench.digests_of(bench.device_digests()),
                &bench.sequences(),
                Scoring {
                    page_size,
                    rule: sharing.into(),
                    n_scores: bench.max_pages(),
                },
            );
            let top = TopPages {
                page_size,
                selection: PageSelection {
                    k,
                    sink_pages,
                    recent_pages,
                },
                coming_pages: 0,
            };
            let ids = ints(kernels::top_pages(scores, bench.lengths(), top));
            let expected = listed_attention(bench, &ids, lists, k);
            poison(expected.len(), &bench.device);
            let found = top_k_attention(bench, k, sink_pages, recent_pages, sharing);
            let name = bench.name();
            assert_eq!(found, expected, "{name} {sharing:?} {k}");
        }
    }
}

/// So many pages share the k-th score that no bin of scores tells them apart.
#[test]
fn of_equal_scores_those_of_the_lowest_pages_are_chosen_within_attention() {
    let ((device, _alone), mut rng) = (device(), rng());
    let (page_size, head_dim) = (8, 64);
    let shape = case((page_size, head_dim), (2, 2), &[700 * 8 + 3, 300 * 8], &[]);
    for dtype in dtypes(&device) {
        for scores in [1, 2, 5] {
            let mut bench = Bench::new(shape.clone(), DigestKind::MinMax, dtype, &device, &mut rng);
            // A page's score is the highest value of the first channel.
            bench.query.fill(0.0);
            for row in bench.query.chunks_exact_mut(head_dim) {
                row[0] = 1.0;
            }
            let score_of = |page: usize| page % scores;
            for sequence in 0..bench.batch() {
                for page in 0..bench.n_pages(sequence) {
                    for head in 0..2 {
                        let digest = (bench.pages[sequence][page] * 2 + head) * 2 * head_dim;
                        bench.digests[digest + head_dim] = score_of(page) as f32;
                    }
                }
            }
            for k in [1, 6, 100, 160] {
                let (recent_pages, sink_pages) = (usize::from(k > 1), usize::from(k > 2));
                let sharing = PageSharing::KvHead;
                let found = top_k_attention(&bench, k, sink_pages, recent_pages, sharing);
                for sequence in 0..bench.batch() {
                    let n = bench.n_pages(sequence);
                    let kept = |page| page < sink_pages || page + recent_pages >= n;
                    let mut pages: Vec<usize> = (0..n).collect();
                    pages.sort_by_key(|&page| (!kept(page), scores - score_of(page), page));
                    pages.truncate(k);
                    for head in 0..bench.n_heads() {
                        let expected = bench.attention(sequence, head, &pages);
                        let row = (sequence * bench.n_heads() + head) * head_dim;
                        let error = relative_error(&found[row..][..head_dim], &expected);
                        assert!(
                            error < tolerance_of(dtype),
                            "{dtype:?}: {scores} scores, {k} of {n} pages: {error:e}"
                        );
                    }
                }
            }
        }
    }
}
