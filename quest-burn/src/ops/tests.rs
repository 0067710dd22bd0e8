//! Hand-computed cases; shapes, backends and random inputs are covered in the tests crate.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::*;
use crate::cache::{PagedKvCache, PagedKvCacheConfig};
use crate::digest::DigestKind;

/// One layer, one KV head, one channel, pages of 8 tokens; key and value of token `i` are
/// `keys[i]` and `i`.
fn cache_of(keys: &[f32]) -> (PagedKvCache, Step) {
    let device = Device::default();
    let mut cache = PagedKvCacheConfig::for_tokens(1, 1, 1, 8, 1, keys.len())
        .with_digest(DigestKind::MinMax)
        .init(&device, DType::F32)
        .unwrap();
    let step = cache.prefill(&[keys.len()]).unwrap();
    let values = (0..keys.len()).map(|i| i as f32).collect::<Vec<_>>();
    let rows =
        |rows: Vec<f32>| Tensor::from_data(TensorData::new(rows, [1, 1, keys.len(), 1]), &device);
    append(cache.layer_mut(0), rows(keys.to_vec()), rows(values), &step);
    (cache, step)
}

fn query(value: f32) -> Tensor<3> {
    Tensor::full([1, 1, 1], value, &Device::default())
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn ids_of(pages: Pages) -> (Vec<i64>, Vec<usize>) {
    let Pages::Listed { ids, counts } = pages else {
        panic!("expected a list of pages");
    };
    (
        ids.into_data().convert::<i64>().try_to_vec().unwrap(),
        counts,
    )
}

fn select(scores: &[f32], tokens: usize, selection: PageSelection) -> Vec<i64> {
    let (_, step) = cache_of(&vec![0.0; tokens]);
    let scores = TensorData::new(scores.to_vec(), [1, 1, scores.len()]);
    let pages = top_pages(
        Tensor::from_data(scores, &Device::default()),
        &step,
        &selection,
    );
    ids_of(pages).0
}

fn best(k: usize) -> PageSelection {
    PageSelection {
        k,
        recent_pages: 0,
        sink_pages: 0,
    }
}

#[test]
fn a_digest_holds_the_minimum_and_maximum_of_a_page() {
    let keys = [
        3., -1., 4., -1., 5., -9., 2., 6., /* next page */ 0.5, 0.25,
    ];
    let (cache, _) = cache_of(&keys);
    assert_eq!(
        floats(cache.layer(0).digests().clone()),
        [-9., 6., 0.25, 0.5]
    );
}

#[test]
fn truncation_folds_the_remaining_keys_anew() {
    let (mut cache, _) = cache_of(&[3., -1., 4., -1., 5., -9., 2., 6.]);
    cache.truncate(0, 3).unwrap();
    assert_eq!(floats(cache.layer(0).digests().clone()), [-1., 4.]);
}

#[test]
fn the_score_takes_the_maximum_for_positive_and_the_minimum_for_negative_queries() {
    let keys = [3., -1., 4., -1., 5., -9., 2., 6., 0.5, 0.25];
    let (cache, step) = cache_of(&keys);
    let scores = |q| {
        floats(page_scores(
            query(q),
            cache.layer(0),
            &step,
            crate::PageSharing::KvHead,
        ))
    };
    assert_eq!(scores(2.0), [12.0, 1.0]);
    assert_eq!(scores(-1.0), [9.0, -0.25]);
}

#[test]
fn ties_go_to_the_lower_page() {
    assert_eq!(select(&[1., 7., 7., 0., 7.], 40, best(2)), [1, 2]);
    assert_eq!(select(&[0., 0., 0., 0., 0.], 40, best(3)), [0, 1, 2]);
}

#[test]
fn pages_come_in_ascending_order() {
    assert_eq!(select(&[1., 2., 5., 4., 3.], 40, best(3)), [2, 3, 4]);
}

#[test]
fn pinned_and_first_pages_are_kept_whatever_their_score() {
    let selection = PageSelection {
        k: 3,
        recent_pages: 1,
        sink_pages: 1,
    };
    assert_eq!(select(&[-5., 2., 9., 4., -7.], 40, selection), [0, 2, 4]);
}

#[test]
fn a_budget_that_covers_a_sequence_lists_every_page() {
    assert_eq!(select(&[3., 1., 2.], 20, best(3)), [0, 1, 2]);
    assert_eq!(select(&[3., 1., 2.], 20, best(9)), [0, 1, 2]);
}

#[test]
fn attention_weighs_only_the_tokens_of_the_listed_pages() {
    // Equal keys: the output is the mean of the values that are attended to.
    let (mut cache, _) = cache_of(&[0.0; 19]);
    cache.truncate(0, 18).unwrap();
    let step = cache.decode().unwrap();
    let mut attend = |pages: &[i64]| {
        let ids = TensorData::new(pages.to_vec(), [1, 1, pages.len()]);
        let pages = Pages::Listed {
            counts: vec![pages.len()],
            ids: Tensor::from_data(ids, &Device::default()),
        };
        floats(paged_attention(
            query(1.0),
            cache.layer_mut(0),
            &pages,
            &step,
            1.0,
        ))[0]
    };
    assert_eq!(attend(&[0]), 3.5);
    assert_eq!(attend(&[2]), 17.0, "three of eight rows are filled");
    let (first, last) = (8.0 * 3.5, 3.0 * 17.0);
    assert!((attend(&[0, 2]) - (first + last) / 11.0).abs() < 1e-5);
    let dense = paged_attention(query(1.0), cache.layer_mut(0), &Pages::All, &step, 1.0);
    assert!((floats(dense)[0] - 9.0).abs() < 1e-5);
}

#[test]
fn prefill_attends_to_the_past_only() {
    let (mut cache, _) = cache_of(&[0.0; 12]);
    cache.truncate(0, 10).unwrap();
    let step = cache.prefill(&[2]).unwrap();
    let query = Tensor::ones([1, 1, 2, 1], &Device::default());
    let out = floats(prefill_attention(query, cache.layer(0), &step, 1.0));
    assert!(
        (out[0] - 5.0).abs() < 1e-5,
        "mean of 0..=10, found {}",
        out[0]
    );
    assert!(
        (out[1] - 5.5).abs() < 1e-5,
        "mean of 0..=11, found {}",
        out[1]
    );
}
