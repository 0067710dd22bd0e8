//! Writing rows and digests in place.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Tensor};
use quest_burn::{cache::KvStorage, digest::DigestKind, kernels};
use quest_burn_tests::arrays::tolerance_of;

use super::attention::assert_same;
use super::{
    bench::Bench,
    cases::{Case, case, device, for_each_digest_and_form, rng},
    numbers::{floats, normal},
};

#[test]
fn append_writes_rows_and_digests_in_place_and_nothing_else() {
    for_each_digest_and_form(|bench, rng| {
        let Case {
            head_dim,
            n_kv_heads,
            page_size,
            ..
        } = bench.case;
        // The case's lengths are the capacity; appended in chunks of these sizes.
        let capacity = bench.case.lengths.clone();
        bench.keys.fill(f32::NAN);
        bench.values.fill(f32::NAN);
        bench.digests.fill(f32::NAN);
        let mut pool = bench.kv_pool();
        // An upload that is under way holds the memory as well.
        bench.device.sync().unwrap();
        let mut starts = vec![0; bench.batch()];
        for chunk in [1, page_size - 1, 3, page_size * 2 + 1, 1, 1, page_size] {
            let new: Vec<usize> = starts
                .iter()
                .zip(&capacity)
                .enumerate()
                .map(|(i, (&start, &capacity))| {
                    // Every third sequence gains fewer tokens than the chunk has.
                    let wanted = if i % 3 == 2 { chunk / 2 } else { chunk };
                    wanted.min(capacity - start)
                })
                .collect();
            let lengths: Vec<usize> = starts.iter().zip(&new).map(|(s, n)| s + n).collect();
            let rows = bench.batch() * n_kv_heads * chunk * head_dim;
            let new_keys = normal(rows, bench.dtype, rng);
            let new_values = normal(rows, bench.dtype, rng);
            for sequence in 0..bench.batch() {
                for head in 0..n_kv_heads {
                    for j in 0..new[sequence] {
                        let at = ((sequence * n_kv_heads + head) * chunk + j) * head_dim;
                        let (key, value) = (
                            new_keys[at..at + head_dim].to_vec(),
                            new_values[at..at + head_dim].to_vec(),
                        );
                        bench.write(sequence, head, starts[sequence] + j, &key, &value);
                    }
                }
            }
            let shape = [bench.batch(), n_kv_heads, chunk, head_dim];
            pool = kernels::append(
                pool,
                bench.float(&new_keys, shape),
                bench.float(&new_values, shape),
                &bench.sequences_of(&starts, &lengths),
            );
            starts = lengths;
        }
        assert_rows(bench, pool.keys.widened(), &bench.keys, "keys");
        assert_rows(bench, pool.values.widened(), &bench.values, "values");
        assert_digests(
            bench,
            &floats(pool.digests.rows),
            &format!("{} digests", bench.name()),
        );
    });
}

/// Rows exactly; those in 8 bits up to the last bit of a scale, and but for a channel here and there that is in
/// the middle of two steps: some devices divide by multiplying with an inverse.
pub(super) fn assert_rows(bench: &Bench, found: Tensor<4>, expected: &[f32], what: &str) {
    let (found, what) = (floats(found), format!("{} {what}", bench.name()));
    if bench.storage == KvStorage::Full {
        return assert_same(&found, expected, &what);
    }
    assert_eq!(found.len(), expected.len());
    let is_off = |(f, e): &(&f32, &f32)| {
        let is_near = (*f - *e).abs() <= 1e-6 * e.abs();
        !(is_near || f.is_nan() && e.is_nan())
    };
    let off = found.iter().zip(expected).filter(is_off);
    let off = off.collect::<Vec<_>>();
    assert!(off.len() <= found.len() / 10_000, "{what}: {off:?}");
    let is_a_step = |(f, e): &(&f32, &f32)| (*f - *e).abs() < 0.1;
    assert!(off.iter().all(is_a_step), "{what}: {off:?}");
}

/// Bounds exactly; means and deviations as the dtype rounds them.
pub(super) fn assert_digests(bench: &Bench, found: &[f32], what: &str) {
    if bench.digest.is_bound() && bench.storage == KvStorage::Full {
        return assert_same(found, &bench.digests, what);
    }
    assert_eq!(found.len(), bench.digests.len());
    for (i, (f, e)) in found.iter().zip(&bench.digests).enumerate() {
        let is_near = (f - e).abs() <= tolerance_of(bench.dtype) as f32 * (1.0 + e.abs());
        assert!(
            is_near || (f.is_nan() && e.is_nan()),
            "{what} at {i}: expected {e}, found {f}"
        );
    }
}

#[test]
fn append_refuses_a_pool_that_something_else_holds() {
    let ((device, _alone), mut rng) = (device(), rng());
    let small = case((16, 64), (2, 2), &[20], &[1]);
    let bench = Bench::new(small, DigestKind::MinMax, DType::F32, &device, &mut rng);
    let pool = bench.kv_pool();
    let held = pool.keys.full().clone();
    device.sync().unwrap();
    let row = || Tensor::<4>::zeros([1, 2, 1, 64], &device);
    // With fusion the refusal comes when the operations drain.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let sequences = bench.sequences_of(&[3], &[4]);
        let pool = kernels::append(pool, row(), row(), &sequences);
        (
            floats(pool.keys.widened()),
            floats(pool.values.widened()),
            floats(pool.digests.rows),
        )
    }));
    assert!(outcome.is_err());
    assert_same(&floats(held), &bench.keys, "the keys that are held");
}
