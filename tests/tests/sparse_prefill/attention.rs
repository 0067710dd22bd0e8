use burn::tensor::{DType, Int, Tensor, TensorData};
use quest_burn::{
    cache::KvStorage,
    digest::DigestKind,
    ops::{self, PastPages, reference},
};
use quest_burn_tests::{
    arrays::{assert_close, rows, values},
    devices::devices,
    naive,
};
use rand::{RngExt, rngs::StdRng};

use super::prompt::{Chunk, SHAPES, Shape, for_each_chunk, for_each_chunk_in};

/// Lists of pages, `[sequence][kv head]`.
type Lists = Vec<Vec<Vec<usize>>>;

/// As many of the past's pages as `count` says of each sequence, drawn for each KV head.
fn drawn(
    chunk: &Chunk,
    shape: Shape,
    rng: &mut StdRng,
    count: impl Fn(usize, &mut StdRng) -> usize,
) -> Lists {
    let batch = chunk.step.batch();
    let of_sequence = |sequence: usize| {
        let n = chunk.step.past_pages(sequence);
        let k = count(n, rng);
        let list = |rng: &mut StdRng| {
            let mut pages = (0..n).collect::<Vec<_>>();
            while pages.len() > k {
                pages.remove(rng.random_range(0..pages.len()));
            }
            pages
        };
        (0..shape.n_kv_heads).map(|_| list(rng)).collect()
    };
    (0..batch).map(of_sequence).collect()
}

fn past_pages(lists: &Lists, chunk: &Chunk) -> PastPages {
    let longest = lists.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let ids = lists.iter().flatten().flat_map(|list| {
        let none = std::iter::repeat_n(-1, longest - list.len());
        list.iter().map(|&page| page as i32).chain(none)
    });
    let shape = [lists.len(), lists[0].len(), longest];
    let ids = TensorData::new(ids.collect::<Vec<_>>(), shape);
    PastPages {
        ids: Tensor::<3, Int>::from_data(ids, (&chunk.query.device(), DType::I32)),
        counts: lists.iter().map(|of_heads| of_heads[0].len()).collect(),
    }
}

/// Every new token's attention to the listed pages and to its chunk, by its definition; zeros past the tokens.
fn expected(chunk: &Chunk, lists: &Lists, shape: Shape) -> Vec<f64> {
    let step = &chunk.step;
    let mut output = Vec::new();
    for (sequence, queries) in chunk.queries.iter().enumerate() {
        let own = step.past_pages(sequence) * shape.page_size;
        for (head, queries) in queries.iter().enumerate() {
            let kv_head = head * shape.n_kv_heads / shape.n_heads;
            let listed = lists[sequence][kv_head].iter();
            let listed = listed.flat_map(|page| (0..shape.page_size).map(move |i| (page, i)));
            let listed = listed.map(|(page, i)| page * shape.page_size + i);
            let listed = listed.collect::<Vec<_>>();
            for (token, query) in queries.iter().enumerate() {
                if token >= step.new_tokens(sequence) {
                    output.extend(vec![0.0; shape.head_dim]);
                    continue;
                }
                let position = step.starts()[sequence] + token;
                let tokens = listed.iter().copied().chain(own..=position);
                let tokens = tokens.collect::<Vec<_>>();
                let (keys, values) = (&chunk.keys, &chunk.values);
                let (keys, values) = (&keys[sequence][kv_head], &values[sequence][kv_head]);
                output.extend(naive::attend(query, keys, values, &tokens, shape.scale()));
            }
        }
    }
    output
}

/// Every shape with every form of rows that its head dim can be kept in.
fn shapes_and_forms() -> impl Iterator<Item = (Shape, KvStorage)> {
    let all = SHAPES.into_iter();
    let all = all.flat_map(|shape| KvStorage::ALL.map(|storage| (shape, storage)));
    all.filter(|(shape, storage)| *storage == KvStorage::Full || shape.head_dim.is_multiple_of(16))
}

#[test]
fn new_tokens_attend_to_listed_pages_and_to_themselves_and_to_nothing_else() {
    let mut compared = 0;
    for test_device in devices() {
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            if !test_device.device.supports_dtype(dtype) {
                continue;
            }
            for (shape, storage) in shapes_and_forms() {
                let (digest, device) = (DigestKind::MeanVar, &test_device.device);
                for_each_chunk_in(storage, shape, dtype, digest, device, |chunk, rng| {
                    let some = |n: usize, rng: &mut StdRng| match n {
                        0 => 0,
                        n => rng.random_range(0..n),
                    };
                    let lists = drawn(chunk, shape, rng, some);
                    let past = past_pages(&lists, chunk);
                    let expected = expected(chunk, &lists, shape);
                    let context =
                        format!("{test_device}, {shape:?}, {storage}, {dtype:?}, {lists:?}");
                    let close = |output: Tensor<4>, tolerance: f64, body: &str| {
                        let output = rows(&output).concat();
                        let context = format!("{body}: {context}");
                        assert_close(&output, &expected, tolerance, &context);
                    };
                    let (query, step) = (chunk.query.clone(), &chunk.step);
                    let scale = shape.scale();
                    let layer = chunk.layer();
                    let found =
                        ops::sparse_prefill_attention(query.clone(), layer, &past, step, scale);
                    close(found, test_device.tolerance(tolerance), "operation");
                    let found =
                        reference::sparse_prefill_attention(query, layer, &past, step, scale);
                    close(found, test_device.tolerance(tolerance), "reference");
                    compared += 1;
                });
            }
        }
    }
    println!("{compared} chunks compared");
}

#[test]
fn lists_of_the_whole_past_give_the_bits_of_dense_attention() {
    for test_device in devices() {
        for dtype in [DType::F32, DType::F16] {
            if !test_device.device.supports_dtype(dtype) {
                continue;
            }
            for (shape, storage) in shapes_and_forms() {
                let (digest, device) = (DigestKind::MeanVar, &test_device.device);
                for_each_chunk_in(storage, shape, dtype, digest, device, |chunk, rng| {
                    // A pass of few tokens attends as decoded tokens do, where it is dense.
                    let is_few = chunk.step.batch() * chunk.step.max_new_tokens() <= 16;
                    let is_kernel = !["flex", "ndarray"].contains(&&*test_device.name);
                    if is_few && is_kernel {
                        return;
                    }
                    let lists = drawn(chunk, shape, rng, |n, _| n);
                    let past = past_pages(&lists, chunk);
                    let (query, step) = (chunk.query.clone(), &chunk.step);
                    let layer = chunk.layer();
                    let scale = shape.scale();
                    let dense = ops::prefill_attention(query.clone(), layer, step, scale);
                    let listed = ops::sparse_prefill_attention(query, layer, &past, step, scale);
                    assert_eq!(
                        values(&listed),
                        values(&dense),
                        "{test_device}, {shape:?}, {dtype:?}"
                    );
                });
            }
        }
    }
}

#[test]
#[should_panic(expected = "listed pages: expected at most 0 of sequence 0, found 1")]
fn a_page_that_new_tokens_begin_in_cannot_be_listed() {
    let device = &devices()[0].device;
    for_each_chunk(
        SHAPES[0],
        DType::F32,
        DigestKind::MeanVar,
        device,
        |chunk, _| {
            let lists = vec![vec![vec![0]; SHAPES[0].n_kv_heads]; chunk.step.batch()];
            let past = past_pages(&lists, chunk);
            let (query, layer) = (chunk.query.clone(), chunk.layer());
            ops::sparse_prefill_attention(query, layer, &past, &chunk.step, 1.0);
        },
    );
}
