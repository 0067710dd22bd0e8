//! Queries and keys are normed, rotated and appended by one kernel as by tensor operations.

use burn::tensor::{DType, Device, Tensor};
use quest_burn::{
    attention::{HeadNorms, RopeConfig},
    cache::{KvStorage, PagedKvCache, PagedKvCacheConfig},
    digest::DigestKind,
    kernels, ops,
};
use quest_burn_tests::{
    arrays::assert_close,
    catalogue::{AttentionShape, attention_shapes},
};
use rand::{SeedableRng, rngs::StdRng};

use super::{EPSILON, floats, random, targets, tolerance};

/// Two layers of a cache, one filled by the reference, one by the kernel.
fn caches(
    shape: &AttentionShape,
    digest: DigestKind,
    storage: KvStorage,
    dtype: DType,
    device: &Device,
) -> [PagedKvCache; 2] {
    let pages = shape.lengths.iter().map(|n| n.div_ceil(shape.page_size));
    let config = PagedKvCacheConfig::new(1, shape.n_kv_heads, shape.head_dim, pages.sum())
        .with_page_size(shape.page_size)
        .with_batch(shape.lengths.len())
        .with_digest(digest)
        .with_kv_storage(storage);
    [(); 2].map(|()| config.init(device, dtype).unwrap())
}

/// Steps that bring every sequence to its length: chunks that end inside pages, then one token.
fn steps(shape: &AttentionShape) -> Vec<Vec<usize>> {
    let chunk = shape.page_size + 3;
    let mut held = vec![0; shape.lengths.len()];
    let mut steps = Vec::new();
    loop {
        let left = held.iter().zip(&shape.lengths).map(|(held, n)| n - held);
        let new = left
            .map(|left| {
                if left > chunk {
                    chunk
                } else {
                    left.saturating_sub(1).max(left.min(1))
                }
            })
            .collect::<Vec<_>>();
        if new.iter().all(|&n| n == 0) {
            return steps;
        }
        held.iter_mut()
            .zip(&new)
            .for_each(|(held, new)| *held += new);
        steps.push(new);
    }
}

/// The largest step of rows in 8 bits.
fn largest_step(rows: &Tensor<4>) -> f64 {
    let largest = floats(rows)
        .into_iter()
        .fold(0.0f64, |largest, x| largest.max(x.abs()));
    largest / 127.0
}

#[test]
fn queries_and_keys_are_rotated_where_they_are_appended() {
    for storage in KvStorage::ALL {
        rotated_and_appended(storage);
    }
}

fn rotated_and_appended(storage: KvStorage) {
    let mut rng = StdRng::seed_from_u64(1);
    let targets = targets().into_iter();
    for (device, dtype) in targets.filter(|(device, _)| kernels::takes_rows(device, storage)) {
        let shapes = attention_shapes().into_iter().enumerate();
        let shapes = shapes
            .filter(|(_, shape)| storage == KvStorage::Full || shape.head_dim.is_multiple_of(16));
        for (index, shape) in shapes {
            let digest = DigestKind::ALL[index % DigestKind::ALL.len()];
            let (d, batch) = (shape.head_dim, shape.lengths.len());
            let heads = shape.n_heads + 2 * shape.n_kv_heads;
            let rope = RopeConfig::new().init(d, &device);
            let norms = [false, true].map(|normed| {
                normed.then(|| {
                    let mut norm = || {
                        let mut norm = burn::nn::RmsNormConfig::new(d)
                            .with_epsilon(EPSILON)
                            .init(&device);
                        let gamma = random([d], dtype, &device, &mut rng).0;
                        norm.gamma = burn::module::Param::from_tensor(gamma);
                        norm
                    };
                    HeadNorms::new(norm(), norm())
                })
            });
            for norms in norms {
                let [mut expected, mut found] = caches(&shape, digest, storage, dtype, &device);
                for new_tokens in steps(&shape) {
                    let step = expected.prefill(&new_tokens).unwrap();
                    let tokens = step.max_new_tokens();
                    let qkv = random([batch, tokens, heads, d], dtype, &device, &mut rng).0;
                    let rotations = rope.rotations(step.positions().clone());
                    let query = ops::reference::rotate_append(
                        expected.layer_mut(0),
                        qkv.clone(),
                        norms.as_ref(),
                        Some(&rotations),
                        &step,
                    );
                    let step = found.prefill(&new_tokens).unwrap();
                    let rotated = ops::rotate_append(
                        found.layer_mut(0),
                        qkv,
                        norms.as_ref(),
                        Some(&rotations),
                        &step,
                    );
                    for (sequence, &n) in new_tokens.iter().enumerate().filter(|(_, n)| **n > 0) {
                        let rows = |query: &Tensor<4>| {
                            let rows = [sequence..sequence + 1, 0..shape.n_heads, 0..n];
                            floats(&query.clone().slice(rows))
                        };
                        let what = format!("{shape}, {dtype:?}: queries");
                        let (found, expected) = (rows(&rotated), rows(&query));
                        assert_close(&found, &expected, tolerance(dtype), &what);
                    }
                }
                let (expected, found) = (expected.layer(0), found.layer(0));
                // A channel in the middle of two steps may be rounded to either.
                let step = match storage {
                    KvStorage::Full => 0.0,
                    KvStorage::Int8 => {
                        let [keys, values] = [expected.key_rows(), expected.value_rows()]
                            .map(|rows| largest_step(&rows.widened()));
                        keys.max(values)
                    }
                };
                for (what, found, expected) in [
                    (
                        "keys",
                        found.key_rows().widened(),
                        expected.key_rows().widened(),
                    ),
                    (
                        "values",
                        found.value_rows().widened(),
                        expected.value_rows().widened(),
                    ),
                    (
                        "digests",
                        found.digests().clone(),
                        expected.digests().clone(),
                    ),
                ] {
                    let what = format!("{shape}, {digest}, {storage}, {dtype:?}: {what}");
                    let (found, expected) = (floats(&found), floats(&expected));
                    assert_close(&found, &expected, tolerance(dtype) + step, &what);
                    let off = found.iter().zip(&expected);
                    let off = off.map(|(found, expected)| (found - expected).abs());
                    let mean = off.sum::<f64>() / found.len() as f64;
                    assert!(mean <= tolerance(dtype), "{what}: {mean} off in the mean");
                }
            }
        }
    }
}
