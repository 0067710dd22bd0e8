//! When digests are packed, they are those that the tensor operations make of the full ones.

use burn::{
    module::Param,
    tensor::{DType, Int, Tensor},
};
use quest_burn::{
    attention::{HeadNorms, RopeConfig},
    cache::{DigestStorage, Int8Digests, LayerCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
};
use quest_burn_tests::{
    arrays::{drawn, random, values},
    catalogue::AttentionShape,
    devices::devices,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{NUMBERS, Numbers, filled, ints, shapes, unpacked};

/// Words, and the bits of the scales, of the pages that the sequences of a step hold.
fn bits_of_pages(words: &Tensor<4, Int>, scales: &Tensor<3>, step: &Step) -> Vec<Vec<u32>> {
    let [n_kv_heads, n_pages, rows, row] = words.dims();
    let [_, _, n_scales] = scales.dims();
    let words = ints(words).into_iter().map(|word| word as u32);
    let words = words.collect::<Vec<_>>();
    let scales = values(scales).into_iter().map(f32::to_bits);
    let scales = scales.collect::<Vec<_>>();
    let held = (0..step.batch()).flat_map(|sequence| {
        let n = step.lengths()[sequence].div_ceil(step.page_size());
        &step.pages(sequence)[..n]
    });
    let places = held.flat_map(|&page| (0..n_kv_heads).map(move |h| h * n_pages + page as usize));
    let bits = places.map(|place| {
        let words = &words[place * rows * row..][..rows * row];
        [words, &scales[place * n_scales..][..n_scales]].concat()
    });
    bits.collect()
}

/// Asserts that the packed digests of the pages that a step's sequences hold are, bit for bit, what
/// the tensor operations make of the full ones. Gives them.
fn assert_packed(layer: &LayerCache, step: &Step, context: &str) -> Vec<Vec<u32>> {
    let packed = layer.int8_digests().expect("the cache has packed digests");
    let [_, _, _, head_dim] = layer.keys().dims();
    let found = bits_of_pages(packed.words(), packed.scales(), step);
    let (words, scales) =
        ops::reference::quantized(layer.digest(), layer.digests().clone(), head_dim);
    let expected = bits_of_pages(&words, &scales, step);
    for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "{context}: page and KV head {place}");
    }
    found
}

#[test]
fn the_digests_of_a_cache_are_packed_as_by_the_tensor_operations() {
    // Whether a denormal counts as zero is the device's affair, operation by operation.
    let numbers = NUMBERS.into_iter().filter(|&n| n != Numbers::Denormal);
    let numbers = numbers.collect::<Vec<_>>();
    for device in devices() {
        for (seed, shape) in shapes().enumerate() {
            let numbers = numbers[seed % numbers.len()];
            for &digest in DigestKind::ALL {
                if numbers == Numbers::Huge && !digest.is_bound() {
                    continue;
                }
                let (filled, _) = filled(&shape, digest, numbers, &device.device, seed as u64);
                let context = format!("{device}, {shape}, {digest}, {numbers:?}, seed {seed}");
                assert_packed(filled.layer(), &filled.step, &context);
            }
        }
    }
}

#[test]
fn a_pool_that_was_just_made_is_packed() {
    for device in devices() {
        // All are kept, so that the memory of each is allocated anew.
        let layers = (1..=30).map(|round| {
            let shape = [32 * round, 2, 2, 64];
            let mut rng = StdRng::seed_from_u64(round as u64);
            let digests = random(shape, &device.device, &mut rng);
            let keys = Tensor::zeros([shape[0], shape[1], 8, shape[3]], &device.device);
            let layer = LayerCache::from_parts(0, keys.clone(), keys, DigestKind::MeanVar, digests);
            layer.with_int8_digests().unwrap()
        });
        for layer in layers.collect::<Vec<_>>() {
            let packed = layer.int8_digests().expect("packed above");
            let (words, scales) =
                ops::reference::quantized(layer.digest(), layer.digests().clone(), 64);
            let context = format!("{device}, {:?}", layer.digests().dims());
            assert_eq!(ints(packed.words()), ints(&words), "{context}");
            assert_eq!(values(packed.scales()), values(&scales), "{context}");
        }
    }
}

/// How a step's keys get into the cache.
#[derive(Clone, Copy, Debug)]
enum Append {
    Rows,
    Rotated,
    NormedAndRotated,
}

#[test]
fn every_step_packs_the_digests_that_it_writes() {
    // Tokens that two sequences gain: chunks over several pages and within one, decode steps into
    // pages that hold tokens and into new ones.
    let steps = [[37, 5], [1, 1], [0, 11], [2, 0], [9, 1], [1, 1]];
    let appends = [Append::Rows, Append::Rotated, Append::NormedAndRotated];
    for device in devices() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            if !device.device.supports_dtype(dtype) {
                println!("SKIPPED: {device} has no {dtype:?}");
                continue;
            }
            for (i, head_dim) in [16, 48, 64, 80, 128, 256].into_iter().enumerate() {
                for (j, append) in appends.into_iter().enumerate() {
                    let digest = DigestKind::ALL[(i + j) % DigestKind::ALL.len()];
                    let config = PagedKvCacheConfig::for_tokens(1, 2, head_dim, 16, 2, 64);
                    let config = config
                        .with_digest(digest)
                        .with_digest_storage(DigestStorage::Int8);
                    let mut cache = config.init(&device.device, dtype).unwrap();
                    let mut rng = StdRng::seed_from_u64(head_dim as u64);
                    let norms = matches!(append, Append::NormedAndRotated).then(|| {
                        let mut norm = burn::nn::RmsNormConfig::new(head_dim).init(&device.device);
                        norm.gamma = Param::from_tensor(norm.gamma.val().cast(dtype));
                        HeadNorms::new(norm.clone(), norm)
                    });
                    let rope = RopeConfig::new().init(head_dim, &device.device);
                    for (index, new_tokens) in steps.iter().enumerate() {
                        let context = format!(
                            "{device}, {dtype:?}, {digest}, head dim {head_dim}, {append:?}, step {index}"
                        );
                        let step = cache.prefill(new_tokens).unwrap();
                        let tokens = step.max_new_tokens();
                        let layer = cache.layer_mut(0);
                        let before = layer.int8_digests().map(bits);
                        let mut draw = || Numbers::Outliers.draw(&mut rng);
                        match append {
                            Append::Rows => {
                                let shape = [2, 2, tokens, head_dim];
                                let keys = drawn(shape, &device.device, &mut draw);
                                ops::append(layer, keys.clone(), keys, &step);
                            }
                            Append::Rotated | Append::NormedAndRotated => {
                                let shape = [2, tokens, 4 + 2 * 2, head_dim];
                                let qkv = drawn(shape, &device.device, &mut draw).cast(dtype);
                                let rotations = rope.rotations(step.positions().clone());
                                let (norms, rotations) = (norms.as_ref(), Some(&rotations));
                                ops::rotate_append(layer, qkv, norms, rotations, &step);
                            }
                        }
                        assert_ne!(layer.int8_digests().map(bits), before, "{context}");
                        assert_packed(layer, &step, &context);
                    }
                }
            }
        }
    }
}

/// All words, then the bits of all scales.
fn bits(digests: &Int8Digests) -> (Vec<i32>, Vec<u32>) {
    let scales = values(digests.scales()).into_iter().map(f32::to_bits);
    (ints(digests.words()), scales.collect())
}

#[test]
fn a_shortened_page_is_packed_anew() {
    for device in devices() {
        let shape = AttentionShape {
            page_size: 16,
            head_dim: 32,
            n_heads: 2,
            n_kv_heads: 2,
            lengths: vec![40, 33],
            budget_pages: 1,
        };
        let (mut filled, _) = filled(
            &shape,
            DigestKind::MinMax,
            Numbers::Outliers,
            &device.device,
            3,
        );
        filled.cache.truncate(0, 37).unwrap();
        let layer = filled.layer();
        let fresh = LayerCache::from_parts(
            0,
            layer.keys().clone(),
            layer.values().clone(),
            layer.digest(),
            layer.digests().clone(),
        );
        let fresh = fresh.with_int8_digests().unwrap();
        for kv_head in 0..2 {
            assert_eq!(
                unpacked(layer, kv_head),
                unpacked(&fresh, kv_head),
                "{device}"
            );
        }
    }
}
