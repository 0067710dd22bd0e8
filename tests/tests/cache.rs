//! The paged KV cache against a naive one, through any sequence of requests.

use burn::tensor::Tensor;
use proptest::{
    prelude::*,
    sample::{Index, select},
};
use quest_burn::{
    cache::{CacheError, PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
};
use quest_burn_tests::{
    arrays::{assert_close, random, rows},
    cases,
    devices::devices,
    naive,
    poison::poisoned_cache,
};
use rand::{SeedableRng, rngs::StdRng};

const BATCH: usize = 3;
const N_LAYERS: usize = 2;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 4;
const PAGE_SIZE: usize = 8;
/// Fewer than the requests ask for, so that the pool fills up now and then.
const N_PAGES: usize = 9;

#[derive(Clone, Debug)]
enum Request {
    Prefill([usize; BATCH]),
    Decode([bool; BATCH]),
    Truncate(usize, Index),
    Release(usize),
    Reset,
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => [0..20usize, 0..20usize, 0..20usize].prop_map(Request::Prefill),
        4 => any::<[bool; BATCH]>().prop_map(Request::Decode),
        3 => (0..BATCH, any::<Index>()).prop_map(|(s, length)| Request::Truncate(s, length)),
        2 => (0..BATCH).prop_map(Request::Release),
        1 => Just(Request::Reset),
    ]
}

/// Keys and values of one layer, `[sequence][kv head][token]`.
#[derive(Clone, Default)]
struct Tokens {
    keys: [[Vec<Vec<f64>>; N_KV_HEADS]; BATCH],
    values: [[Vec<Vec<f64>>; N_KV_HEADS]; BATCH],
}

/// The cache, and what it should hold.
struct Pair {
    cache: PagedKvCache,
    naive: [Tokens; N_LAYERS],
    rng: StdRng,
}

impl Pair {
    fn length(&self, sequence: usize) -> usize {
        self.naive[0].keys[sequence][0].len()
    }

    fn apply(&mut self, request: &Request) {
        match request {
            Request::Prefill(new_tokens) => {
                let step = self.cache.prefill(new_tokens);
                self.append(step, new_tokens);
            }
            Request::Decode(active) => {
                let step = self.cache.decode_active(active);
                self.append(step, &active.map(usize::from));
            }
            Request::Truncate(sequence, index) => {
                let length = index.index(self.length(*sequence) + 1);
                self.cache
                    .truncate(*sequence, length)
                    .expect("it is not longer than before");
                self.shorten(*sequence, length);
            }
            Request::Release(sequence) => {
                self.cache.release(*sequence).expect("the sequence exists");
                self.shorten(*sequence, 0);
            }
            Request::Reset => {
                self.cache.reset();
                (0..BATCH).for_each(|sequence| self.shorten(sequence, 0));
            }
        }
    }

    fn shorten(&mut self, sequence: usize, length: usize) {
        for tokens in &mut self.naive {
            for head in tokens.keys[sequence]
                .iter_mut()
                .chain(&mut tokens.values[sequence])
            {
                head.truncate(length);
            }
        }
    }

    /// Appends random rows, or checks that the refusal was justified.
    fn append(&mut self, step: Result<Step, CacheError>, new_tokens: &[usize; BATCH]) {
        let step = match step {
            Ok(step) => step,
            Err(CacheError::NoTokens) => return assert_eq!(new_tokens, &[0; BATCH]),
            Err(CacheError::PoolFull {
                requested, free, ..
            }) => {
                assert_eq!(free, self.cache.free_pages());
                assert!(
                    requested > free,
                    "{requested} pages were refused, {free} are free"
                );
                return;
            }
            Err(CacheError::SequenceFull {
                capacity,
                requested,
                ..
            }) => {
                assert!(requested > capacity, "{requested} tokens were refused");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(
            step.max_new_tokens(),
            *new_tokens.iter().max().expect("a batch")
        );
        for (index, tokens) in self.naive.iter_mut().enumerate() {
            let shape = [BATCH, N_KV_HEADS, step.max_new_tokens(), HEAD_DIM];
            let device = self.cache.layer(index).keys().device();
            let [keys, values] = [&mut tokens.keys, &mut tokens.values].map(|of_all| {
                let tensor: Tensor<4> = random(shape, &device, &mut self.rng);
                let rows = rows(&tensor);
                let heads = of_all
                    .iter_mut()
                    .flatten()
                    .zip(rows.chunks(step.max_new_tokens()));
                for (i, (head, rows)) in heads.enumerate() {
                    head.extend_from_slice(&rows[..new_tokens[i / N_KV_HEADS]]);
                }
                tensor
            });
            ops::append(self.cache.layer_mut(index), keys, values, &step);
        }
    }

    /// The digest of a page of one head, counted in pages and heads.
    fn check_digest(&self, digests: &[Vec<f64>], page: usize, keys: &[Vec<f64>], context: &str) {
        let kind = self.cache.config().digest;
        let [n, channels] = kind.shape(HEAD_DIM);
        let found = digests[n * page..][..n].concat();
        let mut expected = naive::digest(kind, keys).concat();
        let last = expected[expected.len() - 1];
        expected.resize(n * channels, last);
        if kind.is_bound() {
            assert_eq!(found, expected, "{context}");
        } else {
            assert_close(&found, &expected, 1e-5, context);
        }
    }

    fn check(&self, context: &str) {
        let lengths = std::array::from_fn::<_, BATCH, _>(|sequence| self.length(sequence));
        assert_eq!(self.cache.lengths(), lengths, "{context}");
        let mut held = self.cache.pages().concat();
        assert_eq!(held.len() + self.cache.free_pages(), N_PAGES, "{context}");
        held.sort_unstable();
        held.dedup();
        assert_eq!(
            held.len() + self.cache.free_pages(),
            N_PAGES,
            "{context}: a page held twice"
        );

        for (index, tokens) in self.naive.iter().enumerate() {
            let layer = self.cache.layer(index);
            let context = format!("{context}, layer {index}");
            let digests = rows(layer.digests());
            for (pool, tokens, folds) in [
                (rows(layer.keys()), &tokens.keys, true),
                (rows(layer.values()), &tokens.values, false),
            ] {
                for (pages, heads) in self.cache.pages().iter().zip(tokens) {
                    for (head, tokens) in heads.iter().enumerate() {
                        assert_eq!(pages.len(), tokens.len().div_ceil(PAGE_SIZE), "{context}");
                        for (&page, tokens) in pages.iter().zip(tokens.chunks(PAGE_SIZE)) {
                            let page = page as usize * N_KV_HEADS + head;
                            let found = &pool[page * PAGE_SIZE..][..tokens.len()];
                            assert_eq!(found, tokens, "{context}, pool page {page}");
                            if folds {
                                let context = format!("{context}, pool page {page}");
                                self.check_digest(&digests, page, tokens, &context);
                            }
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn it_holds_what_was_appended_after_any_sequence_of_requests(
        requests in prop::collection::vec(request(), 1..25),
        digest in select(DigestKind::ALL),
        seed: u64,
    ) {
        for device in devices() {
            let config = PagedKvCacheConfig::new(N_LAYERS, N_KV_HEADS, HEAD_DIM, N_PAGES)
                .with_page_size(PAGE_SIZE)
                .with_batch(BATCH)
                .with_digest(digest);
            let mut pair = Pair {
                cache: poisoned_cache(&config, &device.device),
                naive: Default::default(),
                rng: StdRng::seed_from_u64(seed),
            };
            let bytes = pair.cache.bytes();
            for (i, request) in requests.iter().enumerate() {
                pair.apply(request);
                pair.check(&format!("{device}, after request {i}"));
            }
            prop_assert_eq!(pair.cache.bytes(), bytes);
        }
    }
}

#[test]
fn a_full_pool_is_an_error_that_leaves_the_cache_as_it_was() {
    for device in devices() {
        let config = PagedKvCacheConfig::new(1, N_KV_HEADS, HEAD_DIM, 3)
            .with_page_size(PAGE_SIZE)
            .with_batch(2);
        let mut cache = poisoned_cache(&config, &device.device);
        let mut rng = StdRng::seed_from_u64(1);
        let mut rows_of = |n| random([2, N_KV_HEADS, n, HEAD_DIM], &device.device, &mut rng);
        let step = cache.prefill(&[8, 15]).expect("three pages are enough");
        ops::append(cache.layer_mut(0), rows_of(15), rows_of(15), &step);
        let state = |cache: &PagedKvCache| {
            let layer = cache.layer(0);
            let bits = |tensor: &Tensor<4>| {
                rows(tensor)
                    .concat()
                    .into_iter()
                    .map(f64::to_bits)
                    .collect::<Vec<_>>()
            };
            (
                cache.lengths().to_vec(),
                cache.pages().to_vec(),
                cache.free_pages(),
                [layer.keys(), layer.values(), layer.digests()].map(bits),
            )
        };
        let before = state(&cache);
        assert!(matches!(
            cache.decode(),
            Err(CacheError::PoolFull {
                requested: 1,
                free: 0,
                ..
            })
        ));
        assert!(matches!(
            cache.prefill(&[0, 5]),
            Err(CacheError::PoolFull { .. })
        ));
        assert!(matches!(
            cache.prefill(&[0, 10]),
            Err(CacheError::SequenceFull { sequence: 1, .. })
        ));
        assert!(cache.truncate(1, 16).is_err());
        assert_eq!(state(&cache), before, "{device}");

        let step = cache
            .decode_active(&[false, true])
            .expect("the last page has room for one");
        ops::append(cache.layer_mut(0), rows_of(1), rows_of(1), &step);
        assert_eq!(cache.lengths(), [8, 16]);
    }
}
