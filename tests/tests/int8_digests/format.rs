//! What packed digests take, and what cannot be packed.

use burn::tensor::{DType, Device};
use quest_burn::{
    cache::{CacheError, DigestStorage, PagedKvCacheConfig},
    digest::DigestKind,
};

#[test]
fn a_head_dim_that_cannot_be_packed_is_refused() {
    let device = Device::default();
    for head_dim in [8, 24, 100] {
        let config = PagedKvCacheConfig::new(1, 1, head_dim, 4);
        let error = config
            .clone()
            .with_digest_storage(DigestStorage::Int8)
            .init(&device, DType::F32)
            .unwrap_err();
        assert_eq!(error, CacheError::Int8HeadDim(head_dim));
        assert_eq!(
            error.to_string(),
            format!("int8 digests: expected a head dim that is a multiple of 16, found {head_dim}")
        );
        let cache = config.init(&device, DType::F32).unwrap();
        let error = cache.layer(0).clone().with_int8_digests().unwrap_err();
        assert_eq!(error, CacheError::Int8HeadDim(head_dim));
    }
}

#[test]
fn packed_digests_take_half_the_bytes_of_f16_and_their_scales() {
    let config = PagedKvCacheConfig::new(3, 2, 128, 5).with_digest(DigestKind::MinMax);
    let full = config.digest_bytes(DType::F16);
    assert_eq!(full, 3 * 2 * 5 * 2 * 128 * 2);
    let both = config.with_digest_storage(DigestStorage::Int8);
    let packed = 3 * 2 * 5 * (2 * 128 + 4 * 4);
    assert_eq!(both.digest_bytes(DType::F16), full + packed);
    let one_row = both.clone().with_digest(DigestKind::MeanScalar);
    let (full, packed) = (3 * 2 * 5 * 136 * 2, 3 * 2 * 5 * (128 + 5 * 4));
    assert_eq!(one_row.digest_bytes(DType::F16), full + packed);
}
