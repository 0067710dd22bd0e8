//! Digests in 8 bits that are packed by the launch that appends.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Tensor, TensorData};
use quest_burn::{
    cache::{Digests, Int8Digests, KvPool, contiguous},
    digest::DigestKind,
    kernels,
};
use rand::rngs::StdRng;

use super::attention::assert_same;
use super::{
    bench::Bench,
    cases::{Case, case, device, for_each_digest_and_form, rng},
    numbers::{floats, ints, normal},
};

/// Pages that no token was written to, with digests in 8 bits, that nothing else holds.
fn unwritten(bench: &Bench) -> KvPool {
    let Case {
        head_dim,
        n_kv_heads,
        ..
    } = bench.case;
    let [rows, channels] = bench.digest.shape(head_dim);
    let words = [n_kv_heads, bench.n_pool, rows, head_dim / 4];
    let n_scales = head_dim.div_ceil(32) + usize::from(channels > head_dim);
    let scales = [n_kv_heads, bench.n_pool, n_scales];
    let device = &bench.device;
    let mut pool = bench.unwritten_pool();
    pool.digests.int8 = Some(Int8Digests::from_parts(
        contiguous(Tensor::zeros(words, (device, DType::I32))),
        contiguous(Tensor::zeros(scales, (device, DType::F32))),
    ));
    pool
}

fn read(pool: KvPool) -> (Vec<Vec<f32>>, Vec<i32>) {
    let int8 = pool.digests.int8.expect("the pool has digests in 8 bits");
    let numbers = vec![
        floats(pool.keys.widened()),
        floats(pool.values.widened()),
        floats(pool.digests.rows),
        floats(int8.scales().clone()),
    ];
    (numbers, ints(int8.words().clone()))
}

/// What a launch that does not pack and then one that does make of a pool.
fn packed_apart(
    mut pool: KvPool,
    write: impl FnOnce(KvPool) -> KvPool,
    quantize: impl FnOnce(Digests) -> Digests,
) -> KvPool {
    let int8 = pool.digests.int8.take();
    let mut pool = write(pool);
    pool.digests.int8 = int8;
    pool.digests = quantize(pool.digests);
    pool
}

fn assert_same_pools(found: KvPool, expected: KvPool, what: &str) {
    let ((found, found_words), (expected, expected_words)) = (read(found), read(expected));
    let names = ["keys", "values", "digests", "scales"];
    for (name, (found, expected)) in names.iter().zip(found.iter().zip(&expected)) {
        assert_same(found, expected, &format!("{what} {name}"));
    }
    assert_eq!(found_words, expected_words, "{what} words");
    assert!(found_words.iter().any(|&word| word != 0), "{what} words");
}

/// The starts and lengths of steps that end inside pages and at their edges, up to the case's
/// lengths; every third sequence gains fewer tokens than the step has. With each the tokens that
/// the step has room for.
fn steps(case: &Case) -> Vec<(usize, Vec<usize>, Vec<usize>)> {
    let mut starts = vec![0; case.lengths.len()];
    let chunks = [1, case.page_size - 1, 3, case.page_size * 2 + 1, 1, 1];
    let steps = chunks.into_iter().map(|chunk| {
        let lengths = starts.iter().zip(&case.lengths).enumerate();
        let lengths = lengths.map(|(i, (&start, &capacity))| {
            let wanted = if i % 3 == 2 { chunk / 2 } else { chunk };
            capacity.min(start + wanted)
        });
        let lengths = lengths.collect::<Vec<_>>();
        (
            chunk,
            std::mem::replace(&mut starts, lengths.clone()),
            lengths,
        )
    });
    steps.collect()
}

/// [`for_each_digest_and_form`] with those cases whose digests can be packed.
fn for_each_packed(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_digest_and_form(|bench, rng| {
        if bench.case.head_dim.is_multiple_of(16) {
            test(bench, rng);
        }
    });
}

#[test]
fn append_packs_digests_as_a_launch_of_its_own_does() {
    for_each_packed(|bench, rng| {
        let page_size = bench.case.page_size;
        let mut found = unwritten(bench);
        let mut expected = unwritten(bench);
        bench.device.sync().unwrap();
        for (tokens, starts, lengths) in steps(&bench.case) {
            let shape = [
                bench.batch(),
                bench.case.n_kv_heads,
                tokens,
                bench.case.head_dim,
            ];
            let mut rows = || {
                let rows = normal(shape.iter().product(), bench.dtype, rng);
                bench.float(&rows, shape)
            };
            let (new_keys, new_values) = (rows(), rows());
            let sequences = bench.sequences_of(&starts, &lengths);
            found = kernels::append(found, new_keys.clone(), new_values.clone(), &sequences);
            expected = packed_apart(
                expected,
                |pool| kernels::append(pool, new_keys, new_values, &sequences),
                |digests| kernels::quantize_digests(digests, &sequences, page_size, tokens),
            );
        }
        assert_same_pools(found, expected, &bench.name());
    });
}

#[test]
fn rotate_append_packs_digests_as_a_launch_of_its_own_does() {
    for_each_packed(|bench, rng| {
        for normed in [false, true] {
            if !kernels::rotates(&bench.device, bench.storage, normed) {
                println!("SKIPPED: {:?} binds too few buffers", bench.device);
                continue;
            }
            let page_size = bench.case.page_size;
            let d = bench.case.head_dim;
            let heads = bench.n_heads() + 2 * bench.case.n_kv_heads;
            let gammas = bench.float(&normal(2 * d, bench.dtype, rng), [2, d]);
            let norms = normed.then_some((gammas, 1e-5));
            let mut found = unwritten(bench);
            let mut expected = unwritten(bench);
            bench.device.sync().unwrap();
            for (tokens, starts, lengths) in steps(&bench.case) {
                let shape = [bench.batch(), tokens, heads, d];
                let qkv = normal(shape.iter().product(), bench.dtype, rng);
                let qkv = bench.float(&qkv, shape);
                let angles = [bench.batch(), tokens, d];
                let rotations = normal(angles.iter().product(), DType::F32, rng);
                let rotations = TensorData::new(rotations, angles);
                let rotations = Tensor::<3>::from_data(rotations, (&bench.device, DType::F32));
                let sequences = bench.sequences_of(&starts, &lengths);
                let rotate = |pool| {
                    let (qkv, norms, rotations) = (qkv.clone(), norms.clone(), rotations.clone());
                    kernels::rotate_append(pool, qkv, norms, rotations, &sequences)
                };
                let found_query;
                (found, found_query) = rotate(found);
                let mut query = None;
                expected = packed_apart(
                    expected,
                    |pool| {
                        let (pool, rotated) = rotate(pool);
                        query = Some(rotated);
                        pool
                    },
                    |digests| kernels::quantize_digests(digests, &sequences, page_size, tokens),
                );
                let query = query.expect("made above");
                let what = format!("{} queries, normed: {normed}", bench.name());
                assert_same(&floats(found_query), &floats(query), &what);
            }
            let what = format!("{}, normed: {normed}", bench.name());
            assert_same_pools(found, expected, &what);
        }
    });
}

#[test]
fn packed_digests_that_something_else_holds_are_refused() {
    let ((device, _alone), mut rng) = (device(), rng());
    let small = case((16, 64), (2, 2), &[20], &[1]);
    let bench = Bench::new(small, DigestKind::MinMax, DType::F32, &device, &mut rng);
    for words_are_held in [true, false] {
        let pool = unwritten(&bench);
        let int8 = pool.digests.int8.as_ref().expect("the pool has them");
        let held_words = words_are_held.then(|| int8.words().clone());
        let held_scales = (!words_are_held).then(|| int8.scales().clone());
        device.sync().unwrap();
        let row = || Tensor::<4>::zeros([1, 2, 1, 64], &device);
        // With fusion the refusal comes when the operations drain.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let sequences = bench.sequences_of(&[3], &[4]);
            read(kernels::append(pool, row(), row(), &sequences))
        }));
        assert!(outcome.is_err(), "words are held: {words_are_held}");
        let held = held_words.map(|words| ints(words).into_iter().all(|word| word == 0));
        assert_ne!(held, Some(false), "the words that are held");
        let held = held_scales.map(|scales| floats(scales).into_iter().all(|scale| scale == 0.0));
        assert_ne!(held, Some(false), "the scales that are held");
    }
}
