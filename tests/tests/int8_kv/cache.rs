use burn::tensor::{DType, Device, Tensor};
use quest_burn::{
    cache::{DigestStorage, KvStorage, PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
    policy::Pages,
};
use quest_burn_tests::{
    arrays::{random, values},
    devices::devices,
};
use rand::{SeedableRng, rngs::StdRng};

const HEADS: usize = 2;
const HEAD_DIM: usize = 32;

fn cache(digest: DigestKind, device: &Device) -> PagedKvCache {
    PagedKvCacheConfig::for_tokens(1, HEADS, HEAD_DIM, 8, 1, 64)
        .with_digest(digest)
        .with_digest_storage(DigestStorage::Int8)
        .with_kv_storage(KvStorage::Int8)
        .init(device, DType::F32)
        .unwrap()
}

/// Keys and values of tokens that a seed gives.
fn new_rows(tokens: usize, seed: u64, device: &Device) -> [Tensor<4>; 2] {
    let mut rng = StdRng::seed_from_u64(seed);
    [(); 2].map(|()| random([1, HEADS, tokens, HEAD_DIM], device, &mut rng))
}

fn append(cache: &mut PagedKvCache, tokens: usize, seed: u64) -> Step {
    let step = cache.prefill(&[tokens]).unwrap();
    let device = cache.layer(0).device();
    let [keys, values] = new_rows(tokens, seed, &device);
    ops::append(cache.layer_mut(0), keys, values, &step);
    step
}

/// Digests, packed ones and rows of the pages of the sequence.
fn contents(cache: &PagedKvCache) -> [Vec<f32>; 4] {
    let layer = cache.layer(0);
    let n = cache.pages()[0].len();
    let length = cache.lengths()[0];
    let held = |rows: Tensor<4>| {
        let rows = rows.slice([0..n]).swap_dims(0, 1);
        let rows: Tensor<3> = rows.reshape([HEADS, n * 8, HEAD_DIM]);
        values(&rows.slice_dim(1, 0..length))
    };
    let words = layer.int8_digests().unwrap().words().clone();
    [
        values(&layer.digests().clone().slice([0..n])),
        values(&words.slice_dim(1, 0..n).float()),
        held(layer.key_rows().widened()),
        held(layer.value_rows().widened()),
    ]
}

#[test]
fn a_digest_that_is_made_again_after_truncation_is_the_one_before() {
    for device in devices() {
        for &digest in DigestKind::ALL {
            let mut cache = cache(digest, &device.device);
            append(&mut cache, 21, 1);
            let before = contents(&cache);
            append(&mut cache, 9, 2);
            cache.truncate(0, 21).unwrap();
            let after = contents(&cache);
            assert_eq!(after[2..], before[2..], "{device}, {digest}: rows");
            for (after, before) in after[0].iter().zip(&before[0]) {
                // Sums of a page's channels may be made in another order, once natively and once not.
                let most = if digest == DigestKind::MinMax {
                    0.0
                } else {
                    2e-5
                };
                assert!(
                    (after - before).abs() <= most,
                    "{device}, {digest}: {after} {before}"
                );
            }
        }
    }
}

#[test]
fn rows_are_the_same_however_their_tokens_came() {
    for device in devices() {
        let [keys, values] = new_rows(30, 3, &device.device);
        let mut contents_of = Vec::new();
        for chunks in [vec![30], vec![7, 8, 9, 6], vec![1; 30]] {
            let mut cache = cache(DigestKind::MinMax, &device.device);
            let mut first = 0;
            for n in chunks {
                let step = cache.prefill(&[n]).unwrap();
                let [keys, values] =
                    [&keys, &values].map(|rows| rows.clone().slice_dim(2, first..first + n));
                ops::append(cache.layer_mut(0), keys, values, &step);
                first += n;
            }
            contents_of.push(contents(&cache));
        }
        assert_eq!(contents_of[0], contents_of[1], "{device}");
        assert_eq!(contents_of[0], contents_of[2], "{device}");
    }
}

#[test]
fn a_fork_goes_on_as_its_origin_does() {
    for device in devices() {
        let mut origin = cache(DigestKind::default(), &device.device);
        append(&mut origin, 19, 4);
        let mut fork = origin.fork();
        append(&mut fork, 5, 5);
        let expected = contents(&fork);
        append(&mut origin, 3, 6);
        assert_eq!(contents(&fork), expected, "{device}");
        origin.truncate(0, 19).unwrap();
        let step = append(&mut origin, 5, 5);
        let query = Tensor::ones([1, HEADS, HEAD_DIM], &device.device);
        let attend = |cache: &PagedKvCache| {
            let query = query.clone();
            values(&ops::paged_attention(
                query,
                cache.layer(0),
                &Pages::All,
                &step,
                0.2,
            ))
        };
        assert_eq!(attend(&fork), attend(&origin), "{device}");
    }
}

#[test]
fn a_cache_in_8_bits_takes_about_half_the_bytes_of_f16() {
    let config = PagedKvCacheConfig::for_tokens(2, 8, 128, 8, 1, 1024);
    let f16 = config.key_value_bytes(DType::F16);
    let int8 = config.with_kv_storage(KvStorage::Int8);
    assert_eq!(int8.key_value_bytes(DType::F16) * 256, f16 * 132);
}
