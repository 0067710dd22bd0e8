//! Recorded steps of sequences that come and go: the same tokens, and the same pages after them, as of plain steps.

mod arrivals;
mod edges;
mod memory;

use std::collections::BTreeSet;

use burn::tensor::{Device, Int, Tensor};
use quest_burn::{
    QuestConfig,
    cache::{DigestStorage, KvRows, KvStorage, PagedKvCache},
    decode::DecodeGraph,
    policy::{DensePolicy, PagePolicy},
};
use quest_burn_models::model::CausalLm;
use quest_burn_tests::{
    devices::{TestDevice, devices},
    poison::poisoned_cache,
};

use super::{PAGE_SIZE, alone, config, floats, model, tokens::records};

const PAGES: usize = 48;

/// How digests and rows are stored.
type Storages = (DigestStorage, KvStorage);

const WHOLE: Storages = (DigestStorage::Full, KvStorage::Full);

/// A cache whose pages are NaN until they are written.
fn cache((digests, rows): Storages, device: &Device) -> PagedKvCache {
    let config = config().cache(PAGE_SIZE, 1, PAGES * PAGE_SIZE);
    let config = config.with_digest_storage(digests).with_kv_storage(rows);
    poisoned_cache(&config, device)
}

/// Keys, values, digests and what is packed of them, of every page of every layer, as bits.
fn pages(cache: &PagedKvCache) -> Vec<Vec<Vec<u32>>> {
    let by_page = |values: Vec<u32>| {
        let of_page = values.len() / PAGES;
        values.chunks(of_page).map(<[u32]>::to_vec).collect()
    };
    let bits = |pool: Tensor<4>| by_page(floats(pool).iter().map(|x| x.to_bits()).collect());
    let integers = |words: Tensor<4, Int>| {
        let words = words.into_data().convert::<i32>();
        let words = words.try_to_vec::<i32>().unwrap();
        by_page(words.iter().map(|&x| x as u32).collect())
    };
    let rows = |rows: &KvRows| match rows {
        KvRows::Full(rows) => vec![bits(rows.clone())],
        KvRows::Int8(rows) => vec![integers(rows.words().clone()), bits(rows.scales().clone())],
    };
    let layers = (0..cache.n_layers()).map(|layer| {
        let layer = cache.layer(layer);
        let mut pools = [rows(layer.key_rows()), rows(layer.value_rows())].concat();
        pools.push(bits(layer.digests().clone()));
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

/// A model on a device that records, and what its steps are recorded with.
struct Recorded<'a> {
    /// What it is, for messages.
    name: String,
    device: &'a Device,
    model: &'a CausalLm,
    policy: &'a dyn PagePolicy,
    /// The form of the cache.
    stored: Storages,
}

/// Calls `test` with a model on every device that records, one test at a time.
fn for_each_model(test: impl Fn(&TestDevice, &CausalLm)) {
    let _alone = alone();
    for test_device in devices().into_iter().filter(records) {
        test(&test_device, &model(&test_device.device));
    }
}

/// The same with every policy over caches of each form.
fn for_each(test: impl Fn(Recorded<'_>)) {
    for_each_model(|test_device, model| {
        let device = &test_device.device;
        for (name, policy, stored) in policies(device) {
            test(Recorded {
                name: format!("{test_device}, {name}"),
                device,
                model,
                policy: &*policy,
                stored,
            });
        }
    });
}

/// Policies over caches of each form that the device records steps over: rows in 8 bits need more buffers at a time
/// than some devices bind.
fn policies(device: &Device) -> Vec<(String, Box<dyn PagePolicy>, Storages)> {
    let int8 = (DigestStorage::Int8, KvStorage::Full);
    let int8_rows = (DigestStorage::Full, KvStorage::Int8);
    let all_int8 = (DigestStorage::Int8, KvStorage::Int8);
    let dense = || Box::new(DensePolicy);
    let all: [(_, Box<dyn PagePolicy>, _); 5] = [
        ("dense", dense(), WHOLE),
        ("quest", quest(), WHOLE),
        ("quest", quest(), int8),
        ("dense", dense(), int8_rows),
        ("quest", quest(), all_int8),
    ];
    let recorded = all.into_iter().filter(|(_, _, stored)| {
        let is_recorded = DecodeGraph::records(&cache(*stored, device));
        assert!(is_recorded || stored.1 == KvStorage::Int8);
        is_recorded
    });
    let named = recorded.map(|(name, policy, stored)| {
        let (digests, rows) = stored;
        let name = format!("{name}, {digests} digests, {rows} rows");
        (name, policy, stored)
    });
    named.collect()
}
