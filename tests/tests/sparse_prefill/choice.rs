use burn::tensor::{DType, Tensor};
use quest_burn::{
    digest::DigestKind,
    ops,
    policy::{PagePolicy, PastPages, QuestPrefillConfig},
};
use quest_burn_tests::{arrays::values, devices::devices, naive};

use super::prompt::{Chunk, SHAPES, Shape, for_each_chunk};

const ROWS: usize = 5;

fn config(pages: usize, shape: Shape) -> QuestPrefillConfig {
    QuestPrefillConfig::new()
        .with_token_budget(pages * shape.page_size)
        .with_query_rows(ROWS)
}

/// What each page of the past is worth to a KV head of a sequence.
fn worth(
    chunk: &Chunk,
    shape: Shape,
    digest: DigestKind,
    sequence: usize,
    head: usize,
) -> Vec<f64> {
    let gained = chunk.step.new_tokens(sequence);
    let n = chunk.step.past_pages(sequence);
    let pages = chunk.keys[sequence][head].chunks(shape.page_size);
    let pages = pages.take(n).collect::<Vec<_>>();
    let group = shape.n_heads / shape.n_kv_heads;
    let mut worth = vec![f64::NEG_INFINITY; n];
    for query_head in head * group..(head + 1) * group {
        for row in 1..=ROWS {
            let token = (row * gained).div_ceil(ROWS) - 1;
            let query = &chunk.queries[sequence][query_head][token];
            let scores = pages
                .iter()
                .map(|page| naive::page_score(digest, query, page));
            let scores = scores.collect::<Vec<_>>();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            for (worth, score) in worth.iter_mut().zip(scores) {
                *worth = worth.max(score - highest);
            }
        }
    }
    worth
}

fn lists(past: &PastPages, heads: usize) -> Vec<Vec<usize>> {
    let [_, _, k] = past.ids.dims();
    let ids = past.ids.clone().into_data().convert::<i64>();
    let ids = ids.try_to_vec::<i64>().unwrap();
    let list = |(list, ids): (usize, &[i64])| {
        let ids = ids[..past.counts[list / heads]].iter();
        ids.map(|&id| usize::try_from(id).unwrap()).collect()
    };
    ids.chunks(k).enumerate().map(list).collect()
}

#[test]
fn the_pages_nearest_to_the_best_of_some_query_are_listed_with_the_first_and_the_last() {
    const PAGES: usize = 4;
    let mut listed = 0;
    for test_device in devices() {
        for digest in [DigestKind::MeanVar, DigestKind::MinMax] {
            for shape in SHAPES {
                let policy = config(PAGES, shape).init(shape.page_size).unwrap();
                let device = &test_device.device;
                for_each_chunk(shape, DType::F32, digest, device, |chunk, _| {
                    let past = policy.past_pages(&chunk.query, chunk.layer(), &chunk.step);
                    let sequences = 0..chunk.step.batch();
                    let n_past = sequences.map(|sequence| chunk.step.past_pages(sequence));
                    let Some(past) = past else {
                        assert!(n_past.max().unwrap() <= PAGES, "{test_device}, {shape:?}");
                        return;
                    };
                    let lists = lists(&past, shape.n_kv_heads);
                    for (sequence, n) in n_past.enumerate() {
                        assert_eq!(past.counts[sequence], n.min(PAGES));
                        for head in 0..shape.n_kv_heads {
                            let found = &lists[sequence * shape.n_kv_heads + head];
                            assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
                            if n <= PAGES {
                                assert_eq!(*found, (0..n).collect::<Vec<_>>());
                                continue;
                            }
                            let worth = worth(chunk, shape, digest, sequence, head);
                            assert!(found.contains(&0) && found.contains(&(n - 1)), "{found:?}");
                            let free = |page: &usize| ![0, n - 1].contains(page);
                            let mut best = (0..n).filter(free).collect::<Vec<_>>();
                            best.sort_by(|&a, &b| worth[b].total_cmp(&worth[a]));
                            // A score may be rounded past its neighbour.
                            let least = worth[best[PAGES - 3]] - test_device.tolerance(1e-3);
                            for page in found.iter().filter(|page| free(page)) {
                                assert!(
                                    worth[*page] >= least,
                                    "{test_device}, {shape:?}, {digest}: {found:?}, {worth:?}"
                                );
                            }
                            listed += 1;
                        }
                    }
                });
            }
        }
    }
    assert!(listed > 100, "{listed} lists");
}

fn attended(chunk: &Chunk, policy: &dyn PagePolicy, shape: Shape) -> Tensor<4> {
    let (query, layer) = (chunk.query.clone(), chunk.layer());
    policy.prefill_attention(query, layer, &chunk.step, shape.scale())
}

#[test]
fn a_budget_that_covers_the_past_gives_the_bits_of_dense_attention() {
    for test_device in devices() {
        for dtype in [DType::F32, DType::F16] {
            if !test_device.device.supports_dtype(dtype) {
                continue;
            }
            for shape in SHAPES {
                let policy = config(100, shape).init(shape.page_size).unwrap();
                let digest = DigestKind::MeanVar;
                for_each_chunk(shape, dtype, digest, &test_device.device, |chunk, _| {
                    let (query, layer) = (chunk.query.clone(), chunk.layer());
                    let dense = ops::prefill_attention(query, layer, &chunk.step, shape.scale());
                    let found = attended(chunk, &policy, shape);
                    assert_eq!(values(&found), values(&dense), "{test_device}, {shape:?}");
                });
            }
        }
    }
}
