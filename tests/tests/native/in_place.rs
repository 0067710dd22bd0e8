//! Appending writes the pools where they lie.

use burn::{
    backend::Flex,
    tensor::{DType, Device, Tensor},
};
use quest_burn::{
    cache::{KvRows, KvStorage, PagedKvCache},
    digest::DigestKind,
    ops,
};
use quest_burn_tests::{arrays::values, catalogue::AttentionShape};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    case::shapes,
    filled::{new_rows, poisoned},
};

/// Where the elements of a tensor lie.
fn address(pool: &Tensor<4>) -> usize {
    let primitive = pool.clone().try_into_primitive::<Flex>();
    primitive.expect("a Flex tensor").bytes().as_ptr() as usize
}

/// Where keys or values lie: the rows, or their integers.
fn address_of_rows(rows: &KvRows) -> usize {
    match rows {
        KvRows::Full(rows) => address(rows),
        KvRows::Int8(rows) => {
            let primitive = rows.words().clone().try_into_primitive::<Flex>();
            primitive.expect("a Flex tensor").bytes().as_ptr() as usize
        }
    }
}

#[test]
fn appending_leaves_the_pools_where_they_are() {
    let shape = AttentionShape {
        lengths: vec![300],
        ..shapes().remove(0)
    };
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let storages = dtypes.map(|dtype| KvStorage::ALL.map(|storage| (dtype, storage)));
    for (dtype, storage) in storages.into_iter().flatten() {
        let device = Device::flex();
        let mut rng = StdRng::seed_from_u64(1);
        let mut cache = poisoned(&shape, DigestKind::MeanVar, dtype, storage, &device);
        let pools = |cache: &PagedKvCache| {
            let layer = cache.layer(0);
            [
                address_of_rows(layer.key_rows()),
                address_of_rows(layer.value_rows()),
                address(layer.digests()),
            ]
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
        let held = cache.layer(0).key_rows().clone();
        let kept = values(&held.widened());
        cache.truncate(0, 299).expect("it is shorter");
        let step = cache.decode().expect("the pool holds every token");
        let [keys, new_values] = new_rows(&shape, 1, dtype, &device, &mut rng);
        ops::append(cache.layer_mut(0), keys, new_values, &step);
        assert_ne!(pools(&cache)[0], before[0]);
        let left = values(&held.widened());
        let is_same = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
        assert!(left.iter().zip(&kept).all(is_same), "{dtype:?}");
    }
}
