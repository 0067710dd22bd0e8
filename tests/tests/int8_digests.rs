//! Digests in 8 bits: they bound what the full ones bound, on every device and in whatever a cache
//! holds.

use burn::{
    module::Param,
    tensor::{DType, Device, Int, Tensor},
};
use quest_burn::{
    PageSharing,
    attention::{HeadNorms, RopeConfig},
    cache::{CacheError, DigestFormat, Int8Digests, LayerCache, PagedKvCacheConfig, Step},
    ops,
    policy::PageSelection,
};
use quest_burn_tests::{
    arrays::{assert_close, drawn, random, rows, values},
    catalogue::{AttentionShape, attention_shapes},
    devices::{TestDevice, devices},
    filled::Filled,
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// f32 sums of some hundred products, in shares of the sum of their magnitudes.
const TOLERANCE: f64 = 1e-5;

/// What the numbers of keys are like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Numbers {
    Even,
    /// A few a thousand times the rest, as in some channels of trained models.
    Outliers,
    Zeros,
    /// Few are not zero.
    Sparse,
    Huge,
    /// Below the least normal f32.
    Denormal,
    /// Of one sign, all alike.
    Constant,
}

const NUMBERS: [Numbers; 7] = [
    Numbers::Even,
    Numbers::Outliers,
    Numbers::Zeros,
    Numbers::Sparse,
    Numbers::Huge,
    Numbers::Denormal,
    Numbers::Constant,
];

impl Numbers {
    fn draw(self, rng: &mut impl Rng) -> f32 {
        let x = rng.random_range(-2.0f32..2.0);
        match self {
            Self::Even => x,
            Self::Outliers if rng.random_range(0..40) == 0 => 1000.0 * x,
            Self::Outliers => x,
            Self::Zeros => 0.0,
            Self::Sparse if rng.random_range(0..100) == 0 => x,
            Self::Sparse => 0.0,
            Self::Huge => x * 1e35,
            Self::Denormal => x * 1e-40,
            Self::Constant => -1.3,
        }
    }
}

/// The shapes of the catalogue whose head dim can be packed.
fn shapes() -> impl Iterator<Item = AttentionShape> {
    let shapes = attention_shapes().into_iter();
    shapes.filter(|shape| shape.head_dim.is_multiple_of(16))
}

fn filled(
    shape: &AttentionShape,
    numbers: Numbers,
    device: &Device,
    seed: u64,
) -> (Filled, Tensor<3>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut draw = || numbers.draw(&mut rng);
    let filled = Filled::drawn(shape, DigestFormat::Int8, device, &mut draw);
    let query = [shape.lengths.len(), shape.n_heads, shape.head_dim];
    (filled, random(query, device, &mut rng))
}

/// Calls `test` with a filled cache and a query for every device and shape, with all kinds of
/// numbers in turn.
fn for_each_shape(test: impl Fn(&TestDevice, &AttentionShape, Filled, Tensor<3>, &str)) {
    for device in devices() {
        for (seed, shape) in shapes().enumerate() {
            let numbers = NUMBERS[seed % NUMBERS.len()];
            let (filled, query) = filled(&shape, numbers, &device.device, seed as u64);
            let context = format!("{device}, {shape}, {numbers:?}, seed {seed}");
            test(&device, &shape, filled, query, &context);
        }
    }
}

fn ints<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<i32> {
    let data = tensor.clone().into_data().convert::<i32>();
    data.try_to_vec().expect("converted to i32")
}

/// What packed digests stand for, exactly: `[page][minimum or maximum][channel]` of a KV head, and
/// the scale of each channel, `[page][channel]`.
type OfPages<T> = Vec<Vec<T>>;
fn unpacked(layer: &LayerCache, kv_head: usize) -> (OfPages<Vec<f64>>, OfPages<f64>) {
    let digests = layer.int8_digests().expect("the cache has packed digests");
    let [_, n_pages, _, row] = digests.words().dims();
    let words = ints(&digests.words().clone().slice([kv_head..kv_head + 1]));
    let scales = rows(&digests.scales().clone().slice([kv_head..kv_head + 1]));
    let scales = scales.into_iter().map(|scales| {
        let channels = (0..4 * row).map(|channel| scales[channel / 32]);
        channels.collect::<Vec<_>>()
    });
    let scales = scales.collect::<Vec<_>>();
    let pages = words.chunks(2 * row).zip(&scales).map(|(page, scales)| {
        let rows = page.chunks(row).map(|words| {
            let integers = words.iter().flat_map(|word| word.to_le_bytes());
            integers
                .zip(scales)
                .map(|(byte, scale)| {
                    assert_ne!(byte as i8, i8::MIN, "integers are symmetric");
                    f64::from(byte as i8) * scale
                })
                .collect()
        });
        rows.collect()
    });
    let pages = pages.collect::<Vec<_>>();
    assert_eq!(pages.len(), n_pages);
    (pages, scales)
}

/// Numbers below this may be taken for zero.
const LEAST: f64 = f32::MIN_POSITIVE as f64;

#[test]
fn minima_are_rounded_down_and_maxima_up_by_less_than_two_steps() {
    for_each_shape(|_, shape, filled, _, context| {
        let layer = filled.layer();
        for kv_head in 0..shape.n_kv_heads {
            let (packed, scales) = unpacked(layer, kv_head);
            for (sequence, heads) in filled.keys.iter().enumerate() {
                let pages = heads[kv_head].chunks(shape.page_size);
                for (keys, &page) in pages.zip(filled.step.pages(sequence)) {
                    let page = page as usize;
                    for channel in 0..shape.head_dim {
                        let keys = keys.iter().map(|key| key[channel]);
                        let low = keys.clone().fold(f64::INFINITY, f64::min);
                        let high = keys.fold(f64::NEG_INFINITY, f64::max);
                        let [below, above] = [0, 1].map(|row| packed[page][row][channel]);
                        let context = format!(
                            "{context}: sequence {sequence}, KV head {kv_head}, page {page}, \
                             channel {channel}: {low} to {high} became {below} to {above}"
                        );
                        assert!(below <= low + LEAST && above >= high - LEAST, "{context}");
                        // A step, and what a quotient near an integer is moved besides.
                        let most = 1.001 * scales[page][channel];
                        assert!(low - below <= most && above - high <= most, "{context}");
                    }
                }
            }
        }
    });
}

#[test]
fn scales_are_the_largest_magnitude_over_127() {
    for_each_shape(|_, shape, filled, _, context| {
        let layer = filled.layer();
        let digests = layer.digests().clone().swap_dims(0, 1);
        let digests = rows(&digests);
        let scales = rows(layer.int8_digests().expect("packed").scales());
        let [n_pages, ..] = layer.keys().dims();
        for (place, scales) in scales.iter().enumerate() {
            let (kv_head, page) = (place / n_pages, place % n_pages);
            assert_eq!(scales.len(), shape.head_dim.div_ceil(32));
            for (group, &found) in scales.iter().enumerate() {
                let channels = 32 * group..shape.head_dim.min(32 * (group + 1));
                let digest = &digests[2 * place..2 * place + 2];
                let largest = digest
                    .iter()
                    .flat_map(|row| &row[channels.clone()])
                    .fold(0.0, |largest: f64, x| largest.max(x.abs()));
                let least = largest / 127.0;
                assert!(
                    found > 0.0 && found >= least && (found <= 1.00001 * least || found < 1e-29),
                    "{context}: KV head {kv_head}, page {page}, group {group}: scale {found} for \
                     {largest}"
                );
            }
        }
    });
}

#[test]
fn a_page_score_bounds_the_score_of_each_key_and_is_near_the_full_one() {
    for_each_shape(|_, shape, filled, query, context| {
        let group = shape.n_heads / shape.n_kv_heads;
        let found = ops::page_scores(
            query.clone(),
            filled.layer(),
            &filled.step,
            PageSharing::QueryHead,
        );
        let found = rows(&found);
        let queries = rows(&query);
        let scales = (0..shape.n_kv_heads)
            .map(|kv_head| unpacked(filled.layer(), kv_head).1)
            .collect::<Vec<_>>();
        for (list, (found, query)) in found.iter().zip(&queries).enumerate() {
            let (sequence, head) = (list / shape.n_heads, list % shape.n_heads);
            let kv_head = head / group;
            let keys = filled.keys[sequence][kv_head].chunks(shape.page_size);
            for (page, keys) in keys.enumerate() {
                let extreme = |channel: usize| {
                    let products = keys.iter().map(|key| key[channel] * query[channel]);
                    products.fold(f64::NEG_INFINITY, f64::max)
                };
                let full = (0..shape.head_dim).map(extreme).sum::<f64>();
                let size = |of: &dyn Fn(usize) -> f64| {
                    let channels = 0..shape.head_dim;
                    channels.map(|i| (query[i] * of(i)).abs()).sum::<f64>()
                };
                let largest = size(&|i| keys.iter().fold(0.0, |l: f64, key| l.max(key[i].abs())));
                let scales = &scales[kv_head][filled.step.pages(sequence)[page] as usize];
                let steps = 1.001 * size(&|i| scales[i]);
                let rounding = TOLERANCE * (largest + steps) + LEAST;
                let found = found[page];
                let context = format!(
                    "{context}: sequence {sequence}, head {head}, page {page}: score {found}"
                );
                for key in keys {
                    let product = key.iter().zip(query).map(|(k, q)| k * q).sum::<f64>();
                    assert!(
                        found >= product - rounding,
                        "{context} of a key of {product}"
                    );
                }
                assert!(found >= full - rounding, "{context}, in full {full}");
                assert!(
                    found <= full + steps + rounding,
                    "{context}, in full {full}"
                );
            }
        }
    });
}

#[test]
fn scores_are_those_of_the_tensor_operations_for_both_sharings() {
    for_each_shape(|device, shape, filled, query, context| {
        let tolerance = device.tolerance_of_sums(2.0 * TOLERANCE);
        for sharing in [PageSharing::KvHead, PageSharing::QueryHead] {
            let scores = |of: fn(_, &LayerCache, &_, _) -> Tensor<3>| {
                rows(&of(query.clone(), filled.layer(), &filled.step, sharing))
            };
            let expected = scores(ops::reference::page_scores);
            let found = scores(ops::page_scores);
            assert_eq!(found.len(), expected.len());
            let lists = found.len() / shape.lengths.len();
            for (list, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let pages = filled.step.pages(list / lists).len();
                // In shares of the largest: a sum of large numbers may be small.
                let largest = expected[..pages]
                    .iter()
                    .fold(0.0, |l: f64, x| l.max(x.abs()));
                let unit = if largest > 0.0 { largest } else { 1.0 };
                let of = |scores: &[f64]| scores[..pages].iter().map(|x| x / unit).collect();
                let (found, expected): (Vec<f64>, Vec<f64>) = (of(found), of(expected));
                let context = format!("{context}, {sharing:?}, list {list}");
                assert_close(&found, &expected, tolerance, &context);
            }
        }
    });
}

#[test]
fn half_precision_caches_are_packed_and_scored_as_by_the_tensor_operations() {
    for device in devices() {
        for dtype in [DType::F16, DType::BF16] {
            if !device.device.supports_dtype(dtype) {
                println!("SKIPPED: {device} has no {dtype:?}");
                continue;
            }
            for (head_dim, group) in [(16, 1), (80, 2), (128, 4), (256, 3)] {
                let context = format!("{device}, {dtype:?}, head dim {head_dim}, group {group}");
                let config = PagedKvCacheConfig::for_tokens(1, 2, head_dim, 8, 1, 100);
                let config = config.with_digests(DigestFormat::Int8);
                let mut cache = config.init(&device.device, dtype).unwrap();
                let mut rng = StdRng::seed_from_u64(head_dim as u64);
                let step = cache.prefill(&[93]).unwrap();
                let rows_of_step = [1, 2, 93, head_dim];
                let keys = random(rows_of_step, &device.device, &mut rng);
                ops::append(cache.layer_mut(0), keys.clone(), keys, &step);
                let query = random([1, 2 * group, head_dim], &device.device, &mut rng);
                let query = query.cast(dtype);

                let layer = cache.layer(0);
                let full = LayerCache::from_parts(
                    0,
                    layer.keys().clone(),
                    layer.values().clone(),
                    layer.digests().clone(),
                );
                let sharing = PageSharing::QueryHead;
                let full = ops::reference::page_scores(query.clone(), &full, &step, sharing);
                let expected = ops::reference::page_scores(query.clone(), layer, &step, sharing);
                let found = ops::page_scores(query, layer, &step, sharing);
                let [full, expected, found] = [full, expected, found].map(|t| rows(&t).concat());
                let tolerance = device.tolerance_of_sums(TOLERANCE);
                assert_close(&found, &expected, tolerance, &context);
                for (found, full) in found.iter().zip(&full) {
                    let rounding = tolerance * (1.0 + full.abs());
                    assert!(
                        found >= &(full - rounding),
                        "{context}: {found}, in full {full}"
                    );
                    assert!(
                        found - full < 0.05 * full.abs() + 0.5,
                        "{context}: {found}, {full}"
                    );
                }
            }
        }
    }
}

/// Words, and the bits of the scales, of the pages that the sequences of a step hold.
fn bits_of_pages(words: &Tensor<4, Int>, scales: &Tensor<3>, step: &Step) -> Vec<Vec<u32>> {
    let [n_kv_heads, n_pages, _, row] = words.dims();
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
        let words = &words[place * 2 * row..][..2 * row];
        [words, &scales[place * n_scales..][..n_scales]].concat()
    });
    bits.collect()
}

/// Asserts that the packed digests of the pages that a step's sequences hold are, bit for bit, what
/// the tensor operations make of the full ones. Gives them.
fn assert_packed(layer: &LayerCache, step: &Step, context: &str) -> Vec<Vec<u32>> {
    let packed = layer.int8_digests().expect("the cache has packed digests");
    let found = bits_of_pages(packed.words(), packed.scales(), step);
    let (words, scales) = ops::reference::quantized(layer.digests().clone());
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
            let (filled, _) = filled(&shape, numbers, &device.device, seed as u64);
            let context = format!("{device}, {shape}, {numbers:?}, seed {seed}");
            assert_packed(filled.layer(), &filled.step, &context);
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
            let layer = LayerCache::from_parts(0, keys.clone(), keys, digests);
            layer.with_int8_digests().unwrap()
        });
        for layer in layers.collect::<Vec<_>>() {
            let packed = layer.int8_digests().expect("packed above");
            let (words, scales) = ops::reference::quantized(layer.digests().clone());
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
            for head_dim in [16, 48, 64, 80, 128, 256] {
                for append in appends {
                    let config = PagedKvCacheConfig::for_tokens(1, 2, head_dim, 16, 2, 64);
                    let config = config.with_digests(DigestFormat::Int8);
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
                            "{device}, {dtype:?}, head dim {head_dim}, {append:?}, step {index}"
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
        let (mut filled, _) = filled(&shape, Numbers::Outliers, &device.device, 3);
        filled.cache.truncate(0, 37).unwrap();
        let layer = filled.layer();
        let fresh = LayerCache::from_parts(
            0,
            layer.keys().clone(),
            layer.values().clone(),
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

#[test]
fn best_attention_reads_the_pages_of_the_packed_scores() {
    for device in devices() {
        for (seed, shape) in shapes().enumerate() {
            let (mut filled, query) = filled(&shape, Numbers::Even, &device.device, seed as u64);
            let (step, scale) = (filled.step.clone(), 0.2);
            let selection = PageSelection {
                k: shape.budget_pages,
                newest_page: quest_burn::NewestPage::Pinned,
                sink_pages: 0,
            };
            let sharing = PageSharing::KvHead;
            let layer = filled.cache.layer_mut(0);
            let scores = ops::page_scores(query.clone(), layer, &step, sharing);
            let pages = ops::top_pages(scores, &step, &selection);
            let expected = ops::paged_attention(query.clone(), layer, &pages, &step, scale);
            let found = ops::best_attention(query, layer, &step, &selection, sharing, scale);
            let (found, expected) = (rows(&found).concat(), rows(&expected).concat());
            assert_close(&found, &expected, TOLERANCE, &format!("{device}, {shape}"));
        }
    }
}

#[test]
fn a_head_dim_that_cannot_be_packed_is_refused() {
    let device = Device::default();
    for head_dim in [8, 24, 100] {
        let config = PagedKvCacheConfig::new(1, 1, head_dim, 4);
        let error = config
            .clone()
            .with_digests(DigestFormat::Int8)
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
    let config = PagedKvCacheConfig::new(3, 2, 128, 5);
    let full = config.digest_bytes(DType::F16);
    assert_eq!(full, 3 * 2 * 5 * 2 * 128 * 2);
    let both = config.with_digests(DigestFormat::Int8);
    let packed = 3 * 2 * 5 * (2 * 128 + 4 * 4);
    assert_eq!(both.digest_bytes(DType::F16), full + packed);
}
