//! Digests in 8 bits that are packed by the launch that appends.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Int, Tensor, TensorData};
use quest_burn::{digest::DigestKind, kernels};
use rand::rngs::StdRng;

use super::attention::assert_same;
use super::bench::{Bench, Case, case, device, floats, for_each_digest, ints, normal, rng};

/// What a layer has of its tokens, as tensors that nothing else holds.
struct Pools {
    full: (Tensor<4>, Tensor<4>, Tensor<4>),
    packed: (Tensor<4, Int>, Tensor<3>),
}

impl Pools {
    /// Those that no token was written to.
    fn new(bench: &Bench) -> Self {
        let Case {
            head_dim,
            n_kv_heads,
            ..
        } = bench.case;
        let [rows, channels] = bench.digest.shape(head_dim);
        let words = [n_kv_heads, bench.n_pool, rows, head_dim / 4];
        let n_scales = head_dim.div_ceil(32) + usize::from(channels > head_dim);
        let scales = [n_kv_heads, bench.n_pool, n_scales];
        // CUDA may pitch the rows of what is made; a reshaped line has none.
        let line = |shape: &[usize]| [shape.iter().product::<usize>()];
        let zeros = Tensor::<1, Int>::zeros(line(&words), (&bench.device, DType::I32));
        let steps = Tensor::<1>::zeros(line(&scales), (&bench.device, DType::F32));
        Self {
            full: (
                bench.pool(&vec![f32::NAN; bench.keys.len()]),
                bench.pool(&vec![f32::NAN; bench.values.len()]),
                bench.float(
                    &vec![f32::NAN; bench.digests.len()],
                    [bench.n_pool, n_kv_heads, rows, channels],
                ),
            ),
            packed: (zeros.reshape(words), steps.reshape(scales)),
        }
    }

    fn read(self) -> (Vec<Vec<f32>>, Vec<i32>) {
        let (keys, values, digests) = self.full;
        let (words, scales) = self.packed;
        let numbers = vec![
            floats(keys),
            floats(values),
            floats(digests),
            floats(scales),
        ];
        (numbers, ints(words))
    }
}

fn assert_same_pools(found: Pools, expected: Pools, what: &str) {
    let ((found, found_words), (expected, expected_words)) = (found.read(), expected.read());
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

/// [`for_each_digest`] with those cases whose digests can be packed.
fn for_each_packed(test: impl Fn(&mut Bench, &mut StdRng)) {
    for_each_digest(|bench, rng| {
        if bench.case.head_dim.is_multiple_of(16) {
            test(bench, rng);
        }
    });
}

fn quantized(
    bench: &Bench,
    pools: Pools,
    (tokens, starts, lengths): (usize, &[usize], &[usize]),
) -> Pools {
    let (words, scales) = pools.packed;
    let packed = kernels::quantize_digests(
        words,
        scales,
        pools.full.2.clone(),
        bench.digest,
        bench.page_table(),
        bench.ints(starts),
        bench.ints(lengths),
        bench.case.page_size,
        tokens,
    );
    Pools { packed, ..pools }
}

#[test]
fn append_packs_digests_as_a_launch_of_its_own_does() {
    for_each_packed(|bench, rng| {
        if !kernels::int8_appends(&bench.device) {
            println!("SKIPPED: {:?} binds too few buffers", bench.device);
            return;
        }
        let mut found = Pools::new(bench);
        let mut expected = Pools::new(bench);
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
            let (full, packed) = kernels::int8_append(
                found.full,
                found.packed,
                bench.digest,
                new_keys.clone(),
                new_values.clone(),
                bench.page_table(),
                bench.ints(&starts),
                bench.ints(&lengths),
            );
            found = Pools { full, packed };
            let (keys, values, digests) = expected.full;
            let full = kernels::append(
                keys,
                values,
                digests,
                bench.digest,
                new_keys,
                new_values,
                bench.page_table(),
                bench.ints(&starts),
                bench.ints(&lengths),
            );
            expected = quantized(
                bench,
                Pools { full, ..expected },
                (tokens, &starts, &lengths),
            );
        }
        assert_same_pools(found, expected, &bench.name());
    });
}

#[test]
fn rotate_append_packs_digests_as_a_launch_of_its_own_does() {
    for_each_packed(|bench, rng| {
        for normed in [false, true] {
            if !kernels::int8_rotates(&bench.device, normed) {
                println!("SKIPPED: {:?} binds too few buffers", bench.device);
                continue;
            }
            let d = bench.case.head_dim;
            let heads = bench.n_heads() + 2 * bench.case.n_kv_heads;
            let gammas = bench.float(&normal(2 * d, bench.dtype, rng), [2, d]);
            let norms = normed.then_some((gammas, 1e-5));
            let mut found = Pools::new(bench);
            let mut expected = Pools::new(bench);
            bench.device.sync().unwrap();
            for (tokens, starts, lengths) in steps(&bench.case) {
                let shape = [bench.batch(), tokens, heads, d];
                let qkv = normal(shape.iter().product(), bench.dtype, rng);
                let qkv = bench.float(&qkv, shape);
                let angles = [bench.batch(), tokens, d];
                let rotations = normal(angles.iter().product(), DType::F32, rng);
                let rotations = TensorData::new(rotations, angles);
                let rotations = Tensor::<3>::from_data(rotations, (&bench.device, DType::F32));
                let (full, packed, found_query) = kernels::int8_rotate_append(
                    found.full,
                    found.packed,
                    bench.digest,
                    qkv.clone(),
                    norms.clone(),
                    rotations.clone(),
                    bench.page_table(),
                    bench.ints(&starts),
                    bench.ints(&lengths),
                );
                found = Pools { full, packed };
                let (keys, values, digests, query) = kernels::rotate_append(
                    expected.full,
                    bench.digest,
                    qkv,
                    norms.clone(),
                    rotations,
                    bench.page_table(),
                    bench.ints(&starts),
                    bench.ints(&lengths),
                );
                let full = (keys, values, digests);
                expected = quantized(
                    bench,
                    Pools { full, ..expected },
                    (tokens, &starts, &lengths),
                );
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
    if !kernels::int8_appends(&device) {
        println!("SKIPPED: {device:?} binds too few buffers");
        return;
    }
    let small = case((16, 64), (2, 2), &[20], &[1]);
    let bench = Bench::new(small, DigestKind::MinMax, DType::F32, &device, &mut rng);
    for words_are_held in [true, false] {
        let Pools { full, packed } = Pools::new(&bench);
        let held_words = words_are_held.then(|| packed.0.clone());
        let held_scales = (!words_are_held).then(|| packed.1.clone());
        device.sync().unwrap();
        let row = || Tensor::<4>::zeros([1, 2, 1, 64], &device);
        // With fusion the refusal comes when the operations drain.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (full, packed) = kernels::int8_append(
                full,
                packed,
                bench.digest,
                row(),
                row(),
                bench.page_table(),
                bench.ints(&[3]),
                bench.ints(&[4]),
            );
            Pools { full, packed }.read()
        }));
        assert!(outcome.is_err(), "words are held: {words_are_held}");
        let held = held_words.map(|words| ints(words).into_iter().all(|word| word == 0));
        assert_ne!(held, Some(false), "the words that are held");
        let held = held_scales.map(|scales| floats(scales).into_iter().all(|scale| scale == 0.0));
        assert_ne!(held, Some(false), "the scales that are held");
    }
}
