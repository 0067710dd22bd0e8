//! The native operations of the Flex backend against their bodies in tensor operations, in every
//! dtype, over the catalogue of shapes, in caches whose unfilled rows are NaN.
#![cfg(feature = "flex")]

mod in_place;
mod reference;
mod threads;

use burn::tensor::{DType, Device, Tensor};
use quest_burn::{
    GroupRule, PageScoring, PageSharing,
    cache::{KvStorage, LayerCache, PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
    policy::{PageSelection, Pages},
};
use quest_burn_tests::{
    arrays::{assert_close, random, rows},
    catalogue::{AttentionShape, attention_shapes},
};
use rand::{SeedableRng, rngs::StdRng};

/// Sums in f32 of up to some thousand products of values in -2..2, in another order.
const TOLERANCE: f64 = 2e-5;

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
fn poisoned(
    shape: &AttentionShape,
    digest: DigestKind,
    dtype: DType,
    rows: KvStorage,
    device: &Device,
) -> PagedKvCache {
    let n_pages = shape.lengths.iter().map(|n| n.div_ceil(shape.page_size));
    let config =
        PagedKvCacheConfig::new(1, shape.n_kv_heads, shape.head_dim, n_pages.sum::<usize>())
            .with_page_size(shape.page_size)
            .with_batch(shape.lengths.len())
            .with_digest(digest)
            .with_kv_storage(rows);
    let mut cache = config.init(device, dtype).expect("the sizes are valid");
    let nan = |shape: [usize; 4]| Tensor::full(shape, f32::NAN, (device, dtype));
    let layer = cache.layer(0);
    let (keys, values) = (nan(layer.dims()), nan(layer.dims()));
    let digests = nan(layer.digests().dims());
    let poisoned = LayerCache::from_parts(0, keys, values, digest, digests);
    *cache.layer_mut(0) = match rows {
        KvStorage::Full => poisoned,
        KvStorage::Int8 => poisoned.with_int8_rows().expect("the sizes are valid"),
    };
    cache
}

impl Pair {
    /// Fills both caches in chunks that end inside pages, the sequences in turn, and compares the
    /// attention of each chunk.
    fn new(
        shape: &AttentionShape,
        digest: DigestKind,
        dtype: DType,
        storage: KvStorage,
        seed: u64,
    ) -> Self {
        let device = Device::flex();
        let mut rng = StdRng::seed_from_u64(seed);
        let batch = shape.lengths.len();
        let mut native = poisoned(shape, digest, dtype, storage, &device);
        let mut by_reference = poisoned(shape, digest, dtype, storage, &device);
        let scale = 1.0 / (shape.head_dim as f64).sqrt();
        let context = format!("{dtype:?}, rows {storage}, {digest}, {shape}, seed {seed}");
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
            ops::reference::append(by_reference.layer_mut(0), keys, values, &step);
            let query = [batch, shape.n_heads, tokens, shape.head_dim];
            let query: Tensor<4> = random(query, &device, &mut rng);
            let found = ops::prefill_attention(query.clone(), native.layer(0), &step, scale);
            let expected =
                ops::reference::prefill_attention(query, by_reference.layer(0), &step, scale);
            close(&found, &expected, &format!("prefill, {context}"));
        }
        let step = native.decode().expect("the pool holds every token");
        by_reference.decode().expect("the pool holds every token");
        let [keys, values] = new_rows(shape, 1, dtype, &device, &mut rng);
        ops::append(native.layer_mut(0), keys.clone(), values.clone(), &step);
        ops::reference::append(by_reference.layer_mut(0), keys, values, &step);
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
        ops::reference::paged_attention(
            query,
            self.reference.layer(0),
            pages,
            &self.step,
            self.scale,
        )
    }

    fn scores(&self, scoring: impl Into<PageScoring>) -> [Tensor<3>; 2] {
        let query = || self.query.clone();
        let scoring = scoring.into();
        [
            ops::page_scores(query(), self.native.layer(0), &self.step, scoring),
            // Over the same digests: those of the two may differ by a rounding to half precision.
            ops::reference::page_scores(query(), self.native.layer(0), &self.step, scoring),
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
    close_within(TOLERANCE, found, expected, context);
}

fn close_within<const D: usize>(
    tolerance: f64,
    found: &Tensor<D>,
    expected: &Tensor<D>,
    context: &str,
) {
    assert_eq!(found.dtype(), expected.dtype(), "{context}");
    let flat = |tensor: &Tensor<D>| rows(tensor).concat();
    assert_close(&flat(found), &flat(expected), tolerance, context);
}

/// Every way to make a list's scores of those of query heads, and other deviations than the digest's.
fn scorings() -> [PageScoring; 4] {
    let group = PageScoring::from(PageSharing::KvHead);
    [
        group,
        PageSharing::QueryHead.into(),
        PageScoring {
            group_rule: GroupRule::Mean,
            ..group
        },
        PageScoring {
            deviations: Some("0.75".parse().expect("a number")),
            ..group
        },
    ]
}

/// With the paper's digests.
fn for_each_pair(test: impl Fn(&AttentionShape, Pair)) {
    for_each_pair_of(&[DigestKind::MinMax], test);
}

/// With every kind of digests.
fn for_each_digest(test: impl Fn(&AttentionShape, Pair)) {
    for_each_pair_of(DigestKind::ALL, test);
}

fn for_each_pair_of(digests: &[DigestKind], test: impl Fn(&AttentionShape, Pair)) {
    let seed = quest_burn_tests::seed();
    println!("QUEST_TEST_SEED={seed}");
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for shape in shapes() {
            for &digest in digests {
                for rows in KvStorage::ALL {
                    if rows == KvStorage::Full || shape.head_dim.is_multiple_of(16) {
                        test(&shape, Pair::new(&shape, digest, dtype, rows, seed));
                    }
                }
            }
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

fn selection(shape: &AttentionShape, recent_pages: usize) -> PageSelection {
    PageSelection {
        k: shape.budget_pages,
        sink_pages: usize::from(shape.budget_pages > 2),
        recent_pages,
    }
}
