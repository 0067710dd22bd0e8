//! Caches of one layer, filled by the native operation and by the reference.

use burn::tensor::{DType, Device, Tensor};
use quest_burn::{
    PageScoring,
    cache::{KvStorage, LayerCache, PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
    policy::Pages,
};
use quest_burn_tests::{arrays::random, catalogue::AttentionShape};
use rand::{SeedableRng, rngs::StdRng};

use super::case::Case;

/// A cache filled with all tokens of a shape, and queries of the newest ones.
pub(super) struct Filled {
    pub cache: PagedKvCache,
    pub step: Step,
    pub query: Tensor<3>,
    pub scale: f64,
}

/// A body of [`ops::append`].
pub(super) type Append = fn(&mut LayerCache, Tensor<4>, Tensor<4>, &Step);

/// A body of [`ops::prefill_attention`].
pub(super) type Prefill = fn(Tensor<4>, &LayerCache, &Step, f64) -> Tensor<4>;

impl Filled {
    /// Filled by the native operation.
    pub(super) fn natively(case: &Case) -> Self {
        Self::new(case, ops::append, |_, _, _| ())
    }

    /// Fills a cache and attends to it after each chunk.
    pub(super) fn prefilled(case: &Case, append: Append, prefill: Prefill) -> Vec<Tensor<4>> {
        let mut outputs = Vec::new();
        let AttentionShape {
            n_heads, head_dim, ..
        } = case.shape;
        Self::new(case, append, |layer, step, rng| {
            let query = [step.batch(), n_heads, step.max_new_tokens(), head_dim];
            let query = random(query, &Device::flex(), rng);
            outputs.push(prefill(query, layer, step, scale(&case.shape)));
        });
        outputs
    }

    /// Fills a cache in chunks that end inside pages, the sequences in turn, and shows each chunk.
    fn new(
        case: &Case,
        append: Append,
        mut see: impl FnMut(&LayerCache, &Step, &mut StdRng),
    ) -> Self {
        let Case {
            shape,
            digest,
            dtype,
            storage,
            seed,
        } = case;
        let device = Device::flex();
        let mut rng = StdRng::seed_from_u64(*seed);
        let batch = shape.lengths.len();
        let mut cache = poisoned(shape, *digest, *dtype, *storage, &device);
        loop {
            let missing = (0..batch).map(|i| shape.lengths[i] - 1 - cache.lengths()[i]);
            let missing = missing.collect::<Vec<_>>();
            let Some(next) = (0..batch).find(|&i| missing[i] > 0) else {
                break;
            };
            // Others gain tokens along with it now and then.
            let wanted = |i: usize| if i == next { shape.page_size + 3 } else { next };
            let new = (0..batch).map(|i| missing[i].min(wanted(i)));
            let new = new.collect::<Vec<_>>();
            let step = cache.prefill(&new).expect("the pool holds every token");
            let tokens = step.max_new_tokens();
            let [keys, values] = new_rows(shape, tokens, *dtype, &device, &mut rng);
            append(cache.layer_mut(0), keys, values, &step);
            see(cache.layer(0), &step, &mut rng);
        }
        let step = cache.decode().expect("the pool holds every token");
        let [keys, values] = new_rows(shape, 1, *dtype, &device, &mut rng);
        append(cache.layer_mut(0), keys, values, &step);
        Self {
            cache,
            step,
            query: random([batch, shape.n_heads, shape.head_dim], &device, &mut rng),
            scale: scale(shape),
        }
    }

    pub(super) fn attend(&mut self, pages: &Pages) -> Tensor<3> {
        let query = self.query.clone();
        ops::paged_attention(
            query,
            self.cache.layer_mut(0),
            pages,
            &self.step,
            self.scale,
        )
    }

    pub(super) fn scores(&self, scoring: impl Into<PageScoring>) -> Tensor<3> {
        let query = self.query.clone();
        ops::page_scores(query, self.cache.layer(0), &self.step, scoring.into())
    }
}

/// One cache, filled by the native operation and by the reference.
pub(super) struct Pair {
    pub native: Filled,
    pub reference: Filled,
}

impl Pair {
    pub(super) fn new(case: &Case) -> Self {
        Self {
            native: Filled::natively(case),
            reference: Filled::new(case, ops::reference::append, |_, _, _| ()),
        }
    }

    pub(super) fn attend_by_reference(&self, pages: &Pages) -> Tensor<3> {
        let Filled {
            cache,
            step,
            query,
            scale,
        } = &self.reference;
        ops::reference::paged_attention(query.clone(), cache.layer(0), pages, step, *scale)
    }
}

fn scale(shape: &AttentionShape) -> f64 {
    1.0 / (shape.head_dim as f64).sqrt()
}

/// An empty cache of one layer in which everything is NaN.
pub(super) fn poisoned(
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

/// Keys that lie with their axes swapped, as a projection leaves them, and values.
pub(super) fn new_rows(
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
