//! The native operations of the Flex backend against their bodies in tensor operations, in every
//! dtype, over the catalogue of shapes, in caches whose unfilled rows are NaN.
#![cfg(feature = "flex")]

use std::process::Command;

use burn::{
    backend::Flex,
    tensor::{DType, Device, Int, Tensor},
};
use quest_burn::{
    NewestPage, PageSharing,
    cache::{LayerCache, PagedKvCache, PagedKvCacheConfig, Step},
    ops::{self, reference},
    policy::{PageSelection, Pages},
};
use quest_burn_tests::{
    arrays::{assert_close, random, rows, values},
    catalogue::{AttentionShape, attention_shapes},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Sums in f32 of up to some thousand products of values in -2..2, in another order.
const TOLERANCE: f64 = 2e-5;

/// Set for a process that only hashes results.
const HASHES: &str = "QUEST_TEST_HASHES";

/// One layer, filled once by the native operation and once by the reference.
struct Pair {
    native: PagedKvCache,
    reference: PagedKvCache,
    step: Step,
    query: Tensor<3>,
    scale: f64,
    context: String,
}

/// An empty cache of one layer in which everything is NaN.
fn poisoned(shape: &AttentionShape, dtype: DType, device: &Device) -> PagedKvCache {
    let n_pages = shape.lengths.iter().map(|n| n.div_ceil(shape.page_size));
    let config =
        PagedKvCacheConfig::new(1, shape.n_kv_heads, shape.head_dim, n_pages.sum::<usize>())
            .with_page_size(shape.page_size)
            .with_batch(shape.lengths.len());
    let mut cache = config.init(device, dtype).expect("the sizes are valid");
    let nan = |like: &Tensor<4>| Tensor::full(like.dims(), f32::NAN, (device, dtype));
    let layer = cache.layer(0);
    let (keys, values) = (nan(layer.keys()), nan(layer.values()));
    let digests = nan(layer.digests());
    *cache.layer_mut(0) = LayerCache::from_parts(0, keys, values, digests);
    cache
}

impl Pair {
    /// Fills both caches in chunks that end inside pages, the sequences in turn, and compares the
    /// attention of each chunk.
    fn new(shape: &AttentionShape, dtype: DType, seed: u64) -> Self {
        let device = Device::flex();
        let mut rng = StdRng::seed_from_u64(seed);
        let batch = shape.lengths.len();
        let mut native = poisoned(shape, dtype, &device);
        let mut by_reference = poisoned(shape, dtype, &device);
        let scale = 1.0 / (shape.head_dim as f64).sqrt();
        let context = format!("{dtype:?}, {shape}, seed {seed}");
        loop {
            let missing = (0..batch).map(|i| shape.lengths[i] - 1 - native.lengths()[i]);
            let missing = missing.collect::<Vec<_>>();
            let Some(next) = (0..batch).find(|&i| missing[i] > 0) else {
                break;
            };
            // Others gain tokens along with it now and then.
            let wanted = |i: usize| if i == next { shape.page_size + 3 } else { next };
            let new = (0..batch).map(|i| missing[i].min(wanted(i)));
            let new = new.collect::<Vec<_>>();
            let step = native.prefill(&new).expect("the pool holds every token");
            by_reference
                .prefill(&new)
                .expect("the pool holds every token");
            let tokens = step.max_new_tokens();
            let [keys, values] = new_rows(shape, tokens, dtype, &device, &mut rng);
            ops::append(native.layer_mut(0), keys.clone(), values.clone(), &step);
            reference::append(by_reference.layer_mut(0), keys, values, &step);
            let query = [batch, shape.n_heads, tokens, shape.head_dim];
            let query: Tensor<4> = random(query, &device, &mut rng);
            let found = ops::prefill_attention(query.clone(), native.layer(0), &step, scale);
            let expected = reference::prefill_attention(query, by_reference.layer(0), &step, scale);
            close(&found, &expected, &format!("prefill, {context}"));
        }
        let step = native.decode().expect("the pool holds every token");
        by_reference.decode().expect("the pool holds every token");
        let [keys, values] = new_rows(shape, 1, dtype, &device, &mut rng);
        ops::append(native.layer_mut(0), keys.clone(), values.clone(), &step);
        reference::append(by_reference.layer_mut(0), keys, values, &step);
        let query = random([batch, shape.n_heads, shape.head_dim], &device, &mut rng);
        Self {
            native,
            reference: by_reference,
            step,
            query,
            scale,
            context,
        }
    }

    fn attend(&mut self, pages: &Pages) -> Tensor<3> {
        let query = self.query.clone();
        ops::paged_attention(
            query,
            self.native.layer_mut(0),
            pages,
            &self.step,
            self.scale,
        )
    }

    fn attend_by_reference(&self, pages: &Pages) -> Tensor<3> {
        let query = self.query.clone();
        reference::paged_attention(
            query,
            self.reference.layer(0),
            pages,
            &self.step,
            self.scale,
        )
    }

    fn scores(&self, sharing: PageSharing) -> [Tensor<3>; 2] {
        let query = || self.query.clone();
        [
            ops::page_scores(query(), self.native.layer(0), &self.step, sharing),
            reference::page_scores(query(), self.reference.layer(0), &self.step, sharing),
        ]
    }
}

/// Keys that lie with their axes swapped, as a projection leaves them, and values.
fn new_rows(
    shape: &AttentionShape,
    tokens: usize,
    dtype: DType,
    device: &Device,
    rng: &mut StdRng,
) -> [Tensor<4>; 2] {
    let batch = shape.lengths.len();
    let keys = [batch, tokens, shape.n_kv_heads, shape.head_dim];
    let keys: Tensor<4> = random(keys, device, rng);
    let values = [batch, shape.n_kv_heads, tokens, shape.head_dim];
    let values: Tensor<4> = random(values, device, rng);
    [keys.swap_dims(1, 2).cast(dtype), values.cast(dtype)]
}

fn close<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>, context: &str) {
    assert_eq!(found.dtype(), expected.dtype(), "{context}");
    let flat = |tensor: &Tensor<D>| rows(tensor).concat();
    assert_close(&flat(found), &flat(expected), TOLERANCE, context);
}

/// Equal, where NaN equals NaN: what nobody wrote must still be there.
fn assert_same<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>, context: &str) {
    assert_eq!(found.dtype(), expected.dtype(), "{context}");
    for (i, (f, e)) in values(found).iter().zip(values(expected)).enumerate() {
        let is_same = *f == e || (f.is_nan() && e.is_nan());
        assert!(is_same, "{context}: element {i} is {f}, expected {e}");
    }
}

fn for_each_pair(test: impl Fn(&AttentionShape, Pair)) {
    let seed = rand::rng().random::<u32>().into();
    println!("seed {seed}");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in shapes() {
            test(&shape, Pair::new(&shape, dtype, seed));
        }
    }
}

/// The catalogue, and contexts that are split over tasks.
fn shapes() -> Vec<AttentionShape> {
    let mut shapes = attention_shapes();
    for (n_heads, n_kv_heads, head_dim, lengths, budget_pages) in [
        (32, 8, 128, vec![1500], 40),
        (3, 3, 2, vec![700, 257, 256], 20),
        (5, 1, 40, vec![255, 900], 17),
    ] {
        shapes.push(AttentionShape {
            page_size: 16,
            head_dim,
            n_heads,
            n_kv_heads,
            lengths,
            budget_pages,
        });
    }
    shapes
}

fn selection(shape: &AttentionShape, newest_page: NewestPage) -> PageSelection {
    PageSelection {
        k: shape.budget_pages,
        newest_page,
        sink_pages: usize::from(shape.budget_pages > 2),
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
    for_each_pair(|_, pair| {
        let (native, reference) = (pair.native.layer(0), pair.reference.layer(0));
        assert_same(native.keys(), reference.keys(), &pair.context);
        assert_same(native.values(), reference.values(), &pair.context);
        assert_same(native.digests(), reference.digests(), &pair.context);
    });
}

#[test]
fn page_scores_and_the_pages_chosen_by_them_are_those_of_the_reference() {
    for_each_pair(|shape, pair| {
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let [found, expected] = pair.scores(sharing);
            for sequence in 0..shape.lengths.len() {
                let n = pair.step.pages(sequence).len();
                let [_, lists, _] = found.dims();
                let held = |scores: &Tensor<3>| {
                    let held = [sequence..sequence + 1, 0..lists, 0..n];
                    scores.clone().slice(held)
                };
                close(&held(&found), &held(&expected), &pair.context);
            }
            for newest_page in [NewestPage::Pinned, NewestPage::Competes] {
                let selection = selection(shape, newest_page);
                let found = ops::top_pages(expected.clone(), &pair.step, &selection);
                let expected = reference::top_pages(expected.clone(), &pair.step, &selection);
                assert_eq!(listed(&found), listed(&expected), "{}", pair.context);
            }
        }
    });
}

#[test]
fn attention_is_that_of_the_reference_over_the_same_pages() {
    for_each_pair(|shape, mut pair| {
        let (found, expected) = (
            pair.attend(&Pages::All),
            pair.attend_by_reference(&Pages::All),
        );
        close(&found, &expected, &format!("dense, {}", pair.context));
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let [scores, _] = pair.scores(sharing);
            let selection = selection(shape, NewestPage::Competes);
            let pages = ops::top_pages(scores, &pair.step, &selection);
            let (found, expected) = (pair.attend(&pages), pair.attend_by_reference(&pages));
            let context = format!("{sharing:?}, {}", pair.context);
            close(&found, &expected, &context);
            // Chosen and attended to at once: the same computation.
            let at_once = ops::best_attention(
                pair.query.clone(),
                pair.native.layer_mut(0),
                &pair.step,
                &selection,
                sharing,
                pair.scale,
            );
            assert_eq!(values(&at_once), values(&found), "{context}");
        }
    });
}

#[test]
fn a_list_of_every_page_equals_dense_to_the_last_bit() {
    for_each_pair(|shape, mut pair| {
        let k = pair.step.max_pages();
        let batch = shape.lengths.len();
        let counts = (0..batch).map(|sequence| pair.step.pages(sequence).len());
        let counts = counts.collect::<Vec<_>>();
        let dense = values(&pair.attend(&Pages::All));
        for lists in [shape.n_kv_heads, shape.n_heads] {
            let ids = Tensor::<1, Int>::arange(0..k as i64, &pair.query.device())
                .reshape([1, 1, k])
                .expand([batch, lists, k]);
            let counts = counts.clone();
            let found = values(&pair.attend(&Pages::Listed { ids, counts }));
            assert_eq!(found, dense, "{}", pair.context);
        }
    });
}

#[test]
fn nan_among_the_tokens_that_are_read_does_not_get_lost() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for is_key in [true, false] {
            let shape = shapes().pop().expect("the catalogue is not empty");
            let mut pair = Pair::new(&shape, dtype, 1);
            let layer = pair.native.layer(0);
            let spoil = |pool: &Tensor<4>, is_spoilt: bool| {
                let value = if is_spoilt { f32::NAN } else { 0.5 };
                // A row of the oldest page, which belongs to the first sequence.
                let page = pair.step.pages(0)[0] as usize;
                pool.clone().slice_fill([page..page + 1, 0..1, 3..4], value)
            };
            let (keys, values_) = (spoil(layer.keys(), is_key), spoil(layer.values(), !is_key));
            let digests = layer.digests().clone();
            *pair.native.layer_mut(0) = LayerCache::from_parts(0, keys, values_, digests);
            let found = values(&pair.attend(&Pages::All));
            let of_first = shape.n_heads * shape.head_dim;
            let is_nan = found[..of_first].iter().all(|x| x.is_nan());
            assert!(is_nan, "{dtype:?}, in a key: {is_key}");
            assert!(found[of_first..].iter().all(|x| x.is_finite()));
        }
    }
}

/// Where the elements of a tensor lie.
fn address(pool: &Tensor<4>) -> usize {
    let primitive = pool.clone().try_into_primitive::<Flex>();
    primitive.expect("a Flex tensor").bytes().as_ptr() as usize
}

#[test]
fn appending_leaves_the_pools_where_they_are() {
    let shape = AttentionShape {
        lengths: vec![300],
        ..shapes().remove(0)
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let device = Device::flex();
        let mut rng = StdRng::seed_from_u64(1);
        let mut cache = poisoned(&shape, dtype, &device);
        let pools = |cache: &PagedKvCache| {
            let layer = cache.layer(0);
            [layer.keys(), layer.values(), layer.digests()].map(address)
        };
        let before = pools(&cache);
        for tokens in [1, 40, 1, 1, 200, 57] {
            let step = cache
                .prefill(&[tokens])
                .expect("the pool holds every token");
            let [keys, values] = new_rows(&shape, tokens, dtype, &device, &mut rng);
            ops::append(cache.layer_mut(0), keys, values, &step);
            assert_eq!(pools(&cache), before, "{dtype:?}, {tokens} tokens");
        }
        // A pool that something else holds is left to it.
        let held = cache.layer(0).keys().clone();
        let kept = values(&held);
        cache.truncate(0, 299).expect("it is shorter");
        let step = cache.decode().expect("the pool holds every token");
        let [keys, new_values] = new_rows(&shape, 1, dtype, &device, &mut rng);
        ops::append(cache.layer_mut(0), keys, new_values, &step);
        assert_ne!(pools(&cache)[0], before[0]);
        let left = values(&held);
        let is_same = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
        assert!(left.iter().zip(&kept).all(is_same), "{dtype:?}");
    }
}

/// Bits of the results over all shapes, mixed into one number.
fn hash_of_results() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in shapes() {
            let mut pair = Pair::new(&shape, dtype, 5);
            let [scores, _] = pair.scores(PageSharing::KvHead);
            let chosen = selection(&shape, NewestPage::Pinned);
            let pages = ops::top_pages(scores, &pair.step, &chosen);
            for output in [pair.attend(&Pages::All), pair.attend(&pages)] {
                for x in values(&output) {
                    hash = (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
    }
    hash
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    const NAME: &str = "results_do_not_depend_on_the_number_of_threads";
    const MARK: &str = "hash of results: ";
    if std::env::var_os(HASHES).is_some() {
        return println!("{MARK}{}", hash_of_results());
    }
    let hash_with = |threads: &str| {
        let test = std::env::current_exe().expect("the test that runs has a path");
        let output = Command::new(test)
            .args([NAME, "--exact", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .env(HASHES, "")
            .output()
            .expect("the test starts again");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let hash = stdout.split_once(MARK).map(|(_, rest)| {
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].to_owned()
        });
        hash.unwrap_or_else(|| panic!("a hash was expected, found {stdout}"))
    };
    let alone = hash_with("1");
    for threads in ["2", "3", "16"] {
        assert_eq!(hash_with(threads), alone, "{threads} threads");
    }
}
