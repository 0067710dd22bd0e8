//! A launch that refuses leaves the cache as it was.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Distribution, Tensor};
use quest_burn::{
    cache::{DigestStorage, PagedKvCacheConfig},
    decode::DecodeGraph,
    ops,
};
use quest_burn_tests::{arrays::values, devices::devices};

/// Only kernels refuse: elsewhere a pool that something else holds is copied.
#[test]
fn a_refused_append_leaves_the_cache_to_be_appended_to() {
    for device in devices() {
        for storage in DigestStorage::ALL {
            let config = PagedKvCacheConfig::for_tokens(1, 2, 16, 8, 1, 24);
            let mut cache = (config.with_digest_storage(storage))
                .init(&device.device, DType::F32)
                .unwrap();
            if !DecodeGraph::records(&cache) {
                println!("SKIPPED: no kernels on {device}");
                continue;
            }
            let rows = |tokens: usize| {
                Tensor::random([1, 2, tokens, 16], Distribution::Default, &device.device)
            };
            let step = cache.prefill(&[11]).unwrap();
            ops::append(cache.layer_mut(0), rows(11), rows(11), &step);
            let held = |cache: &quest_burn::cache::PagedKvCache| {
                let layer = cache.layer(0);
                [layer.keys(), layer.values(), layer.digests()]
                    .map(|pool| values(pool)[..32].to_vec())
            };
            let before = held(&cache);

            let step = cache.decode().unwrap();
            let holder = cache.layer(0).keys().clone();
            let layer = cache.layer_mut(0);
            let (keys, new_values) = (rows(1), rows(1));
            let refused = catch_unwind(AssertUnwindSafe(|| {
                ops::append(layer, keys.clone(), new_values.clone(), &step);
            }));
            let panic = refused.expect_err("a pool that something else holds is not written");
            let message = panic.downcast_ref::<String>().expect("a message");
            assert!(message.contains("nothing else holds"), "{message}");
            assert_eq!(held(&cache), before, "{device}, {storage}");

            drop(holder);
            ops::append(cache.layer_mut(0), keys.clone(), new_values, &step);
            let newest = cache.layer(0).keys().clone().slice([1..2, 0..1, 3..4]);
            assert_eq!(values(&newest), values(&keys)[..16], "{device}, {storage}");
        }
    }
}
