use burn::tensor::{DType, Int, Tensor, TensorData};
use quest_burn::{
    cache::{CacheError, Int8Rows, KvRows, KvStorage, PagedKvCacheConfig},
    digest::DigestKind,
};
use quest_burn_tests::{arrays::values, devices::devices};
use rand::{SeedableRng, rngs::StdRng};

use super::{filled, for_each_shape, rounded, shapes};

#[test]
fn a_row_is_a_byte_per_channel_and_a_scale_that_its_largest_channel_gives() {
    for device in devices() {
        let row = [127.0f32, -127.0, 0.4, -0.6, 1.5, 64.0, 0.0, -2.0];
        let rows = TensorData::new([row, [0.0; 8]].concat(), [1, 1, 2, 8]);
        let rows = Int8Rows::quantized(Tensor::from_data(rows, &device.device));
        let words: Tensor<4, Int> = rows.words().clone();
        let words = words.cast(DType::I32).into_data().try_to_vec::<i32>();
        let integers = bytes(&words.unwrap());
        assert_eq!(integers[..8], [127, -127, 0, -1, 2, 64, 0, -2], "{device}");
        assert_eq!(integers[8..], [0; 8], "{device}");
        assert_eq!(values(rows.scales())[0], 1.0, "{device}");
        let expected = [127.0, -127.0, 0.0, -1.0, 2.0, 64.0, 0.0, -2.0];
        assert_eq!(values(&rows.widened())[..8], expected, "{device}");
        assert_eq!(values(&rows.widened())[8..], [0.0; 8], "{device}");
    }
}

/// The bytes of words, the lowest of each first.
fn bytes(words: &[i32]) -> Vec<i8> {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    bytes.map(|byte| i8::from_le_bytes([byte])).collect()
}

#[test]
fn a_channel_that_is_not_a_number_makes_its_row_no_number() {
    for device in devices() {
        let mut rows = [1.0f32; 16];
        rows[5] = f32::NAN;
        let rows = TensorData::new(rows.to_vec(), [1, 1, 2, 8]);
        let rows = Int8Rows::quantized(Tensor::from_data(rows, &device.device)).widened();
        let found = values(&rows);
        assert!(found[..8].iter().all(|x| x.is_nan()), "{device}: {found:?}");
        assert!(found[8..].iter().all(|x| *x == 1.0), "{device}: {found:?}");
    }
}

#[test]
fn rows_that_were_appended_are_the_nearest_and_no_others_are_written() {
    for_each_shape(|shape, filled, _, context| {
        let layer = filled.layer();
        let [_, heads, page_size, head_dim] = layer.dims();
        for (rows, tokens) in [
            (layer.key_rows(), &filled.keys),
            (layer.value_rows(), &filled.values),
        ] {
            assert_eq!(rows.storage(), KvStorage::Int8);
            let found = values(&rows.widened());
            let mut is_held = vec![false; found.len() / head_dim];
            for (sequence, &length) in shape.lengths.iter().enumerate() {
                for (head, tokens) in tokens[sequence].iter().enumerate() {
                    let (expected, half_steps) = rounded(tokens);
                    for token in 0..length {
                        let page = filled.step.pages(sequence)[token / page_size] as usize;
                        let row = (page * heads + head) * page_size + token % page_size;
                        is_held[row] = true;
                        let found = &found[row * head_dim..][..head_dim];
                        let exact = &tokens[token];
                        for (channel, &x) in found.iter().enumerate() {
                            let x = f64::from(x);
                            let off = (x - exact[channel]).abs();
                            assert!(off <= half_steps[token] * 1.001, "{context}: {off}");
                            // A channel in the middle of two steps may be rounded to either.
                            let to_expected = (x - expected[token][channel]).abs();
                            let is_either = to_expected < 1e-6 || off > half_steps[token] * 0.999;
                            assert!(is_either, "{context}: {x} for {}", exact[channel]);
                        }
                    }
                }
            }
            for (row, found) in found.chunks_exact(head_dim).enumerate() {
                let is_poison = found.iter().all(|x| x.is_nan());
                assert!(is_held[row] || is_poison, "{context}: row {row}");
            }
        }
    });
}

#[test]
fn digests_are_those_of_the_keys_as_they_are_kept() {
    for device in devices() {
        for digest in DigestKind::ALL {
            for (seed, shape) in shapes().enumerate().step_by(5) {
                let mut rng = StdRng::seed_from_u64(seed as u64);
                let filled = filled(&shape, *digest, &device.device, &mut rng);
                let layer = filled.layer();
                let [_, heads, page_size, head_dim] = layer.dims();
                let keys = layer.key_rows().widened();
                for (sequence, &length) in shape.lengths.iter().enumerate() {
                    for (i, &page) in filled.step.pages(sequence).iter().enumerate() {
                        let page = page as usize;
                        let held = (length - i * page_size).min(page_size);
                        let place = [page..page + 1, 0..heads, 0..held, 0..head_dim];
                        let expected = values(&digest.fold(keys.clone().slice(place)));
                        let found = values(&layer.digests().clone().slice([page..page + 1]));
                        for (found, expected) in found.iter().zip(&expected) {
                            let off = (found - expected).abs();
                            assert!(off < 2e-5, "{device}, {digest}, {shape}: {off}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn other_head_dims_and_names_are_refused() {
    let config = PagedKvCacheConfig::for_tokens(1, 2, 40, 8, 1, 20);
    let config = config.with_kv_storage(KvStorage::Int8);
    assert_eq!(config.validate(), Err(CacheError::Int8KvHeadDim(40)));
    let error = "int4".parse::<KvStorage>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "KV storage: expected full or int8, found int4"
    );
    for storage in KvStorage::ALL {
        assert_eq!(storage.name().parse(), Ok(storage));
    }
}

#[test]
#[should_panic(expected = "expected rows in the dtype of the cache, found rows in 8 bits")]
fn rows_in_8_bits_are_not_given_out_as_others() {
    let device = &devices()[0].device;
    let rows = Int8Rows::quantized(Tensor::ones([1, 1, 8, 16], device));
    let _ = KvRows::from(rows).full();
}
