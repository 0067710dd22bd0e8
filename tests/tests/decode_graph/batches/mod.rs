//! Recorded steps of sequences that come and go: the same tokens, and the same pages after them, as of plain steps.

mod arrivals;
mod edges;
mod memory;

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor};
use quest_burn::{
    QuestConfig,
    cache::{DigestStorage, PagedKvCache},
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_tests::poison::poisoned_cache;

use super::{PAGE_SIZE, config, floats};

const PAGES: usize = 48;

/// A cache whose pages are NaN until they are written.
fn cache(digests: DigestStorage, device: &Device) -> PagedKvCache {
    let config = config().cache(PAGE_SIZE, 1, PAGES * PAGE_SIZE);
    poisoned_cache(&config.with_digest_storage(digests), device)
}

/// Keys, values, digests and what is packed of them, of every page of every layer, as bits.
fn pages(cache: &PagedKvCache) -> Vec<Vec<Vec<u32>>> {
    let by_page = |values: Vec<u32>| {
        let of_page = values.len() / PAGES;
        values.chunks(of_page).map(<[u32]>::to_vec).collect()
    };
    let bits = |pool: Tensor<4>| by_page(floats(pool).iter().map(|x| x.to_bits()).collect());
    let layers = (0..cache.n_layers()).map(|layer| {
        let layer = cache.layer(layer);
        let mut pools = vec![
            bits(layer.keys().clone()),
            bits(layer.values().clone()),
            bits(layer.digests().clone()),
        ];
        if let Some(int8) = layer.int8_digests() {
            let words = int8.words().clone().swap_dims(0, 1).into_data();
            let words = words.convert::<i32>().try_to_vec::<i32>().unwrap();
            pools.push(by_page(words.iter().map(|&x| x as u32).collect()));
            let scales = floats(int8.scales().clone().swap_dims(0, 1));
            pools.push(by_page(scales.iter().map(|x| x.to_bits()).collect()));
        }
        pools
    });
    layers.flatten().collect()
}

/// The pages that two states of a cache do not have in common.
fn differing(a: &[Vec<Vec<u32>>], b: &[Vec<Vec<u32>>]) -> BTreeSet<usize> {
    let pools = a.iter().zip(b);
    let pages = pools.flat_map(|(a, b)| (0..PAGES).filter(move |&page| a[page] != b[page]));
    pages.collect()
}

fn quest() -> Box<dyn PagePolicy> {
    let config = QuestConfig::kv_group().with_token_budget(3 * PAGE_SIZE);
    Box::new(config.with_dense_layers(1).init().unwrap())
}

fn policies() -> [(&'static str, Box<dyn PagePolicy>, DigestStorage); 3] {
    [
        ("dense", Box::new(DensePolicy), DigestStorage::Full),
        ("quest", quest(), DigestStorage::Full),
        ("quest", quest(), DigestStorage::Int8),
    ]
}
