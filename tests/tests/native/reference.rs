//! What the native operations give is what their bodies in tensor operations give.

use burn::tensor::{DType, Int, Tensor};
use quest_burn::{
    PageSharing,
    cache::{KvRows, KvStorage, LayerCache},
    digest::DigestKind,
    ops::{self, reference},
    policy::Pages,
};
use quest_burn_tests::arrays::{tolerance_of, values};

use super::{
    TOLERANCE,
    case::{Case, shapes},
    close, close_within,
    filled::{Filled, Pair},
    for_each_case, for_each_digest, scorings, selection,
};

/// Equal, where NaN equals NaN: what nobody wrote must still be there.
fn assert_same<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>, context: &str) {
    assert_eq!(found.dtype(), expected.dtype(), "{context}");
    for (i, (f, e)) in values(found).iter().zip(values(expected)).enumerate() {
        let is_same = *f == e || (f.is_nan() && e.is_nan());
        assert!(is_same, "{context}: element {i} is {f}, expected {e}");
    }
}

fn listed(pages: &Pages) -> (Vec<i64>, Vec<usize>) {
    let Pages::Listed { ids, counts } = pages else {
        panic!("a list of pages was expected");
    };
    let ids = ids.clone().into_data().convert::<i64>();
    let ids = ids.try_to_vec().expect("converted to i64");
    (ids, counts.clone())
}

#[test]
fn append_writes_what_the_reference_writes_and_nothing_else() {
    for_each_digest(|case| {
        let pair = Pair::new(case);
        let (native, reference) = (pair.native.cache.layer(0), pair.reference.cache.layer(0));
        let context = case.to_string();
        for [native, reference] in [
            [native.key_rows(), reference.key_rows()],
            [native.value_rows(), reference.value_rows()],
        ] {
            assert_same(&native.widened(), &reference.widened(), &context);
        }
        if native.digest().is_bound() {
            assert_same(native.digests(), reference.digests(), &context);
        } else {
            // Channels are summed up in another order, after which they may round to the next number.
            let tolerance = tolerance_of(native.digests().dtype()).max(TOLERANCE);
            let (found, expected) = (native.digests(), reference.digests());
            close_within(tolerance, found, expected, &context);
        }
    });
}

#[test]
fn page_scores_and_the_pages_chosen_by_them_are_those_of_the_reference() {
    for_each_digest(|case| {
        let filled = Filled::natively(case);
        let (step, context) = (&filled.step, case.to_string());
        for scoring in scorings() {
            let found = filled.scores(scoring);
            // Over the same digests: those of the reference may differ by a rounding to half precision.
            let (query, layer) = (filled.query.clone(), filled.cache.layer(0));
            let expected = reference::page_scores(query, layer, step, scoring);
            for sequence in 0..case.shape.lengths.len() {
                let n = step.pages(sequence).len();
                let [_, lists, _] = found.dims();
                let held = |scores: &Tensor<3>| {
                    let held = [sequence..sequence + 1, 0..lists, 0..n];
                    scores.clone().slice(held)
                };
                close(&held(&found), &held(&expected), &context);
            }
            for recent_pages in [1, 0] {
                let selection = selection(&case.shape, recent_pages);
                let found = ops::top_pages(expected.clone(), step, &selection);
                let expected = reference::top_pages(expected.clone(), step, &selection);
                assert_eq!(listed(&found), listed(&expected), "{context}");
            }
        }
    });
}

#[test]
fn attention_is_that_of_the_reference_over_the_same_pages() {
    for_each_case(|case| {
        let mut pair = Pair::new(case);
        let (found, expected) = (
            pair.native.attend(&Pages::All),
            pair.attend_by_reference(&Pages::All),
        );
        close(&found, &expected, &format!("dense, {case}"));
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let scores = pair.native.scores(sharing);
            let selection = selection(&case.shape, 0);
            let pages = ops::top_pages(scores, &pair.native.step, &selection);
            let (found, expected) = (pair.native.attend(&pages), pair.attend_by_reference(&pages));
            let context = format!("{sharing:?}, {case}");
            close(&found, &expected, &context);
            // Chosen and attended to at once: the same computation.
            let native = &mut pair.native;
            let at_once = ops::top_k_attention(
                native.query.clone(),
                native.cache.layer_mut(0),
                &native.step,
                &selection,
                sharing,
                native.scale,
            );
            assert_eq!(values(&at_once), values(&found), "{context}");
        }
    });
}

#[test]
fn attention_of_each_chunk_of_a_prompt_is_that_of_the_reference() {
    for_each_case(|case| {
        let found = Filled::prefilled(case, ops::append, ops::prefill_attention);
        let expected = Filled::prefilled(case, reference::append, reference::prefill_attention);
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            close(found, expected, &format!("chunk {i}, {case}"));
        }
    });
}

#[test]
fn a_list_of_every_page_equals_dense_to_the_last_bit() {
    for_each_case(|case| {
        let mut filled = Filled::natively(case);
        let k = filled.step.max_pages();
        let batch = case.shape.lengths.len();
        let counts = (0..batch).map(|sequence| filled.step.pages(sequence).len());
        let counts = counts.collect::<Vec<_>>();
        let dense = values(&filled.attend(&Pages::All));
        for lists in [case.shape.n_kv_heads, case.shape.n_heads] {
            let ids = Tensor::<1, Int>::arange(0..k as i64, &filled.query.device())
                .reshape([1, 1, k])
                .expand([batch, lists, k]);
            let counts = counts.clone();
            let found = values(&filled.attend(&Pages::Listed { ids, counts }));
            assert_eq!(found, dense, "{case}");
        }
    });
}

#[test]
fn nan_among_the_tokens_that_are_read_does_not_get_lost() {
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let storages = dtypes.map(|dtype| KvStorage::ALL.map(|storage| (dtype, storage)));
    for (dtype, storage) in storages.into_iter().flatten() {
        for is_key in [true, false] {
            let mut shape = shapes().pop().expect("the catalogue is not empty");
            shape.head_dim = 48;
            let case = Case {
                shape,
                digest: DigestKind::MinMax,
                dtype,
                storage,
                seed: 1,
            };
            let mut filled = Filled::natively(&case);
            let layer = filled.cache.layer(0);
            let spoil = |pool: &Tensor<4>, is_spoilt: bool| {
                let value = if is_spoilt { f32::NAN } else { 0.5 };
                // A row of the oldest page, which belongs to the first sequence.
                let page = filled.step.pages(0)[0] as usize;
                pool.clone().slice_fill([page..page + 1, 0..1, 3..4], value)
            };
            let [keys, values_] = [layer.key_rows(), layer.value_rows()].map(KvRows::widened);
            let (keys, values_) = (spoil(&keys, is_key), spoil(&values_, !is_key));
            let (keys, values_) = (keys.cast(dtype), values_.cast(dtype));
            let digests = layer.digests().clone();
            let spoilt = LayerCache::from_parts(0, keys, values_, DigestKind::MinMax, digests);
            *filled.cache.layer_mut(0) = match storage {
                KvStorage::Full => spoilt,
                KvStorage::Int8 => spoilt.with_int8_rows().unwrap(),
            };
            let found = values(&filled.attend(&Pages::All));
            let of_first = case.shape.n_heads * case.shape.head_dim;
            let is_nan = found[..of_first].iter().all(|x| x.is_nan());
            assert!(is_nan, "{dtype:?}, rows {storage}, in a key: {is_key}");
            assert!(found[of_first..].iter().all(|x| x.is_finite()));
        }
    }
}
