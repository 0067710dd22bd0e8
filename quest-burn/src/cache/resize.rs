//! Copies of a cache, of the same size or a larger one.

use burn::tensor::{Tensor, kind::Numeric};

use super::{
    Digests, Int8Digests, Int8Rows, KvPool, KvRows, LayerCache, PagedKvCache,
    contiguous::{contiguous, zeros},
};

impl PagedKvCache {
    /// A cache of its own that holds the same tokens, digests and memory of policies.
    pub fn fork(&self) -> Self {
        Self {
            config: self.config.clone(),
            dtype: self.dtype,
            layers: (self.layers.iter())
                .map(|layer| layer.clone().copied(self.config.n_pages))
                .collect(),
            table: self.table.clone(),
            device_page_table: self.device_page_table.clone(),
            entropies: self.entropies.clone(),
            gaps_allowed: false,
            grows: self.grows,
        }
    }

    /// Enlarges the pool to `n_pages` pages, if it has fewer; what the cache holds stays. One layer
    /// at a time is there twice. A limit of pages per sequence, where there is one, stays too.
    pub fn grow(&mut self, n_pages: usize) {
        if n_pages <= self.config.n_pages {
            return;
        }
        let layers = std::mem::take(&mut self.layers).into_iter();
        self.layers = layers.map(|layer| layer.copied(n_pages)).collect();
        self.config.n_pages = n_pages;
        self.table.grow(n_pages, self.config.max_pages());
        self.upload_page_table();
    }

    /// Lets each sequence have up to `max_pages` pages, if fewer were allowed, and the pool grow by half, up
    /// to what they can have, when a decoded token finds no free page. For policies that
    /// [free pages](Self::free_all_but): how many they keep shows as the answer goes on. A prompt needs its pages
    /// [beforehand](Self::grow), and so does a recorded step.
    pub fn grow_on_demand(&mut self, max_pages: usize) {
        self.grows = true;
        if max_pages > self.config.max_pages() {
            self.config.max_pages_per_sequence = Some(max_pages);
            self.table.grow(self.config.n_pages, max_pages);
            self.upload_page_table();
        }
    }

    /// Enlarges the pool of a cache that [grows](Self::grow_on_demand) by `missing` pages, if there are any, and by half at
    /// least, so that it is copied seldom; but to no more than all sequences can have.
    pub fn grow_by(&mut self, missing: usize) {
        if missing > 0 {
            let n_pages = self.config.n_pages;
            let most = self.config.max_pages().saturating_mul(self.config.batch);
            self.grow((n_pages + missing.max(n_pages / 2)).min(most));
        }
    }

    /// Enlarges the pool if it has too few free pages for one more token of some sequences.
    pub(super) fn grow_for(&mut self, new_tokens: &[usize]) {
        let lengths = self.table.lengths().iter().zip(new_tokens);
        let opens_page = |&(length, &new): &(&usize, &usize)| {
            new > 0 && length.is_multiple_of(self.config.page_size)
        };
        let missing = lengths
            .filter(opens_page)
            .count()
            .saturating_sub(self.table.n_free());
        self.grow_by(missing);
    }
}

impl LayerCache {
    /// The same pages in a pool of its own, of at least as many pages.
    fn copied(self, n_pages: usize) -> Self {
        let KvPool {
            keys,
            values,
            digests: Digests { kind, rows, int8 },
        } = self.pool;
        let digests = Digests {
            kind,
            rows: copied(rows, 0, n_pages),
            int8: int8.map(|Int8Digests { words, scales }| Int8Digests {
                words: copied(words, 1, n_pages),
                scales: copied(scales, 1, n_pages),
            }),
        };
        let pool = KvPool {
            keys: copied_rows(keys, n_pages),
            values: copied_rows(values, n_pages),
            digests,
        };
        let mut copied = Self { pool, ..self };
        copied.renew_pool_id();
        copied
    }
}

/// The same for keys or values.
fn copied_rows(rows: KvRows, n_pages: usize) -> KvRows {
    match rows {
        KvRows::Full(rows) => copied(rows, 0, n_pages).into(),
        KvRows::Int8(Int8Rows { words, scales }) => Int8Rows {
            words: copied(words, 0, n_pages),
            scales: copied(scales, 0, n_pages),
        }
        .into(),
    }
}

/// A pool with `n_pages` pages along an axis that shares no memory with the one before.
fn copied<const D: usize, K: Numeric>(
    pool: Tensor<D, K>,
    axis: usize,
    n_pages: usize,
) -> Tensor<D, K> {
    let old = pool.dims();
    let mut shape = old;
    shape[axis] = n_pages;
    let new = zeros(shape, &pool.device(), pool.dtype());
    contiguous(new.slice_assign(old.map(|n| 0..n), pool))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution};

    use super::*;
    use crate::{
        cache::{DigestStorage, KvStorage, PagedKvCacheConfig},
        ops,
    };

    fn append(cache: &mut PagedKvCache, tokens: usize) {
        let step = cache.prefill(&[tokens]).unwrap();
        let shape = [1, 2, tokens, 16];
        let [keys, values] =
            [(); 2].map(|()| Tensor::random(shape, Distribution::Default, &Device::default()));
        ops::append(cache.layer_mut(0), keys, values, &step);
    }

    /// Keys, values and digests of the pages that hold tokens.
    fn contents(cache: &PagedKvCache) -> Vec<Vec<f32>> {
        let layer = cache.layer(0);
        let pages = cache.pages()[0].len();
        let pools = [
            layer.key_rows().widened(),
            layer.value_rows().widened(),
            layer.digests().clone(),
        ];
        pools
            .map(|pool| {
                let held = pool.slice([0..pages]).into_data();
                held.try_to_vec::<f32>().unwrap()
            })
            .to_vec()
    }

    /// Every storage of digests with every one of keys and values.
    fn storages() -> impl Iterator<Item = (DigestStorage, KvStorage)> {
        DigestStorage::ALL
            .into_iter()
            .flat_map(|digests| KvStorage::ALL.map(|rows| (digests, rows)))
    }

    fn cache((digests, rows): (DigestStorage, KvStorage)) -> PagedKvCache {
        PagedKvCacheConfig::new(1, 2, 16, 3)
            .with_page_size(8)
            .with_digest_storage(digests)
            .with_kv_storage(rows)
            .init(&Device::default(), DType::F32)
            .unwrap()
    }

    #[test]
    fn a_larger_pool_holds_what_the_smaller_one_held_and_takes_more() {
        for storage in storages() {
            let mut cache = cache(storage);
            append(&mut cache, 19);
            let before = contents(&cache);
            assert!(cache.prefill(&[6]).is_err(), "the pool is full");
            cache.grow(5);
            assert_eq!(contents(&cache), before);
            assert_eq!((cache.lengths(), cache.free_pages()), (&[19][..], 2));
            append(&mut cache, 21);
            assert_eq!(
                contents(&cache)[0][..2 * 2 * 8 * 16],
                before[0][..2 * 2 * 8 * 16]
            );
            assert_eq!(cache.lengths(), [40]);
            assert_eq!(
                cache.layer(0).int8_digests().is_some(),
                storage.0 == DigestStorage::Int8
            );
            cache.grow(1);
            assert_eq!(cache.config().n_pages, 5, "it does not shrink");
        }
    }

    #[test]
    fn on_demand_the_pool_grows_by_half_for_decoded_tokens_but_no_further_than_is_allowed() {
        for storage in storages() {
            let mut cache = cache(storage);
            append(&mut cache, 24);
            let before = contents(&cache);
            assert!(cache.decode().is_err(), "the pool is full");
            cache.grow_on_demand(5);
            let mut fork = cache.fork();
            for n_pages in [4, 5] {
                assert!(
                    cache.prefill(&[1]).is_err(),
                    "a prompt needs room beforehand"
                );
                cache.decode().unwrap();
                assert_eq!(cache.config().n_pages, n_pages);
                append(&mut cache, 7);
            }
            for (held, before) in contents(&cache).iter().zip(&before) {
                assert_eq!(held[..before.len()], before[..]);
            }
            assert!(cache.decode().is_err(), "5 pages are allowed");
            fork.decode().unwrap();
        }
    }

    #[test]
    fn a_pool_that_lacks_pages_grows_by_half_at_least_but_no_further_than_is_allowed() {
        let mut cache = cache(storages().next().unwrap());
        cache.grow_on_demand(12);
        for (missing, n_pages) in [(0, 3), (1, 4), (3, 7), (1, 10), (9, 12), (1, 12)] {
            cache.grow_by(missing);
            assert_eq!(cache.config().n_pages, n_pages);
        }
    }

    #[test]
    fn a_fork_and_its_origin_do_not_see_each_other_s_tokens() {
        for storage in storages() {
            let mut cache = cache(storage);
            append(&mut cache, 13);
            let before = contents(&cache);
            let mut fork = cache.fork();
            assert_eq!(contents(&fork), before);
            append(&mut fork, 3);
            assert_eq!(contents(&cache), before);
            append(&mut cache, 5);
            assert_eq!((fork.lengths(), cache.lengths()), (&[16][..], &[18][..]));
            assert_ne!(
                contents(&fork)[0],
                contents(&cache)[0][..contents(&fork)[0].len()]
            );
        }
    }
}
