//! Page scores by packed digests, and attention over the pages that they choose.

use burn::tensor::{DType, Tensor};
use quest_burn::{
    GroupRule, PageScoring, PageSharing,
    cache::{DigestStorage, LayerCache, PagedKvCacheConfig},
    digest::DigestKind,
    ops,
    policy::PageSelection,
};
use quest_burn_tests::{
    arrays::{assert_close, random, rows},
    devices::devices,
};
use rand::{SeedableRng, rngs::StdRng};

use super::{LEAST, Numbers, filled, for_each_digest, for_each_shape, shapes, unpacked};

/// f32 sums of some hundred products, in shares of the sum of their magnitudes.
const TOLERANCE: f64 = 1e-5;

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
fn scores_are_those_of_the_tensor_operations_however_lists_are_scored() {
    for_each_digest(|device, shape, filled, query, context| {
        let tolerance = device.tolerance_of_sums(2.0 * TOLERANCE);
        let shared = PageScoring::from(PageSharing::KvHead);
        let mean = PageScoring {
            group_rule: GroupRule::Mean,
            deviations: Some("0.75".parse().unwrap()),
            ..shared
        };
        for scoring in [shared, PageSharing::QueryHead.into(), mean] {
            let query = || query.clone();
            let (layer, step) = (filled.layer(), &filled.step);
            let expected = rows(&ops::reference::page_scores(query(), layer, step, scoring));
            let found = rows(&ops::page_scores(query(), layer, step, scoring));
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
                let context = format!("{context}, {scoring:?}, list {list}");
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
            for ((head_dim, group), digest) in [
                (16, 1),
                (80, 2),
                (128, 4),
                (256, 3),
                (32, 7),
                (64, 2),
                (96, 8),
                (128, 16),
            ]
            .into_iter()
            .flat_map(|shape| DigestKind::ALL.iter().map(move |&digest| (shape, digest)))
            {
                let context =
                    format!("{device}, {dtype:?}, {digest}, head dim {head_dim}, group {group}");
                let config = PagedKvCacheConfig::for_tokens(1, 2, head_dim, 8, 1, 100);
                let config = config
                    .with_digest(digest)
                    .with_digest_storage(DigestStorage::Int8);
                let mut cache = config.init(&device.device, dtype).unwrap();
                let mut rng = StdRng::seed_from_u64(head_dim as u64);
                let step = cache.prefill(&[93]).unwrap();
                let rows_of_step = [1, 2, 93, head_dim];
                let keys = random(rows_of_step, &device.device, &mut rng);
                ops::append(cache.layer_mut(0), keys.clone(), keys, &step);
                let query = random([1, 2 * group, head_dim], &device.device, &mut rng);
                // Rounded for good: Fusion may leave out a cast and its inverse.
                let query = query.cast(dtype).into_data();
                let query = Tensor::<3>::from_data(query, (&device.device, dtype));

                let layer = cache.layer(0);
                let full = LayerCache::from_parts(
                    0,
                    layer.keys().clone(),
                    layer.values().clone(),
                    layer.digest(),
                    layer.digests().clone(),
                );
                let tolerance = device.tolerance_of_sums(TOLERANCE);
                let scores = |sharing: PageSharing| {
                    let expected = ops::reference::page_scores(
                        query.clone(),
                        layer,
                        &step,
                        PageScoring::from(sharing),
                    );
                    let found = ops::page_scores(query.clone(), layer, &step, sharing);
                    let [expected, found] = [expected, found].map(|t| rows(&t).concat());
                    assert_close(&found, &expected, tolerance, &context);
                    found
                };
                scores(PageSharing::KvHead);
                let sharing = PageSharing::QueryHead;
                let full = ops::reference::page_scores(query.clone(), &full, &step, sharing.into());
                let (full, found) = (rows(&full).concat(), scores(sharing));
                for (found, full) in found.iter().zip(&full) {
                    let rounding = tolerance * (1.0 + full.abs());
                    assert!(
                        !digest.is_bound() || found >= &(full - rounding),
                        "{context}: {found}, in full {full}"
                    );
                    assert!(
                        (found - full).abs() < 0.05 * full.abs() + 0.5,
                        "{context}: {found}, {full}"
                    );
                }
            }
        }
    }
}

#[test]
fn top_k_attention_reads_the_pages_of_the_packed_scores() {
    for device in devices() {
        for (seed, shape) in shapes().enumerate() {
            let digest = DigestKind::ALL[seed % DigestKind::ALL.len()];
            let (mut filled, query) =
                filled(&shape, digest, Numbers::Even, &device.device, seed as u64);
            let (step, scale) = (filled.step.clone(), 0.2);
            let selection = PageSelection {
                k: shape.budget_pages,
                sink_pages: 0,
                recent_pages: 1,
            };
            let sharing = PageSharing::KvHead;
            let layer = filled.cache.layer_mut(0);
            let scores = ops::page_scores(query.clone(), layer, &step, sharing);
            let pages = ops::top_pages(scores, &step, &selection);
            let expected = ops::paged_attention(query.clone(), layer, &pages, &step, scale);
            let found = ops::top_k_attention(query, layer, &step, &selection, sharing, scale);
            let (found, expected) = (rows(&found).concat(), rows(&expected).concat());
            assert_close(&found, &expected, TOLERANCE, &format!("{device}, {shape}"));
        }
    }
}
