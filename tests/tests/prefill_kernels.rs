//! The kernels of a prompt's attention against their body in tensor operations on the CPU: in half
//! precision that with matrix instructions, where the device has them; in f32, with wide heads and
//! elsewhere the one without.
//!
//! Runs on the devices that `QUEST_TEST_DEVICES` names.
#![cfg(all(
    feature = "flex",
    any(
        feature = "cuda",
        feature = "rocm",
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal"
    )
))]

use burn::tensor::{DType, Device, Tensor, TensorData};
use quest_burn::{
    cache::{KvStorage, LayerCache, PagedKvCache, PagedKvCacheConfig},
    kernels, ops,
};
use quest_burn_tests::{
    arrays::{assert_close, poison},
    catalogue::AttentionShape,
    devices::{TestDevice, devices},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Page sizes, head dims and groups, each kernel of which is compiled, over prompts that take several
/// runs of query tokens and tiles of keys.
fn shapes() -> Vec<AttentionShape> {
    [
        (16, 128, 4, 2),
        (8, 64, 2, 2),
        (128, 80, 4, 1),
        (32, 16, 7, 1),
        (8, 24, 2, 1),
        (16, 8, 4, 2),
        (16, 256, 2, 1),
    ]
    .map(
        |(page_size, head_dim, n_heads, n_kv_heads)| AttentionShape {
            page_size,
            head_dim,
            n_heads,
            n_kv_heads,
            lengths: vec![700, 129, 64],
            budget_pages: 3,
        },
    )
    .to_vec()
}

fn config(shape: &AttentionShape, storage: KvStorage) -> PagedKvCacheConfig {
    let pages = shape.lengths.iter().map(|n| n.div_ceil(shape.page_size));
    PagedKvCacheConfig::new(1, shape.n_kv_heads, shape.head_dim, pages.sum())
        .with_page_size(shape.page_size)
        .with_batch(shape.lengths.len())
        .with_kv_storage(storage)
}

/// A cache whose keys and values are NaN until they are written.
fn poisoned(
    shape: &AttentionShape,
    storage: KvStorage,
    dtype: DType,
    device: &Device,
) -> PagedKvCache {
    let mut cache = config(shape, storage).init(device, dtype).unwrap();
    let layer = cache.layer_mut(0);
    let poisoned = LayerCache::from_parts(
        0,
        poison(layer.dims(), device).cast(dtype),
        poison(layer.dims(), device).cast(dtype),
        layer.digest(),
        poison(layer.digests().dims(), device).cast(dtype),
    );
    *layer = match storage {
        KvStorage::Full => poisoned,
        KvStorage::Int8 => poisoned.with_int8_rows().unwrap(),
    };
    cache
}

/// Random values that the dtype holds exactly: on the device, and in f32 on the CPU.
fn random(
    shape: [usize; 4],
    dtype: DType,
    device: &Device,
    rng: &mut StdRng,
) -> (Tensor<4>, Tensor<4>) {
    let values = (0..shape.iter().product()).map(|_| rng.random_range(-2.0f32..2.0));
    let data = TensorData::new(values.collect::<Vec<_>>(), shape).convert_dtype(dtype);
    let exact = Tensor::<4>::from_data(data.clone().convert::<f32>(), &Device::flex());
    (Tensor::from_data(data, (device, dtype)), exact)
}

fn floats(tensor: Tensor<4>) -> Vec<f64> {
    let data = tensor.into_data().convert::<f32>();
    let values = data.try_to_vec::<f32>().unwrap();
    values.into_iter().map(f64::from).collect()
}

/// Chunks that bring every sequence to its length: some end within pages, and some sequences wait.
fn chunks(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut left = lengths.to_vec();
    let mut chunks = Vec::new();
    let mut size = 1;
    while left.iter().any(|&n| n > 0) {
        let chunk = left.iter().enumerate();
        let chunk = chunk.map(|(i, &n)| {
            if i == 1 && chunks.len() == 1 {
                0
            } else {
                n.min(size)
            }
        });
        let chunk = chunk.collect::<Vec<_>>();
        left.iter_mut().zip(&chunk).for_each(|(n, new)| *n -= new);
        if chunk.iter().any(|&n| n > 0) {
            chunks.push(chunk);
        }
        size = size * 3 + 7;
    }
    chunks
}

/// The forms of keys and values that kernels take on a device.
fn forms(device: &Device) -> impl Iterator<Item = KvStorage> {
    let taken = |storage: &KvStorage| kernels::takes_rows(device, *storage);
    KvStorage::ALL.into_iter().filter(taken)
}

/// Compares every chunk of prompts with the tensor operations, and says how many there are.
fn compare(
    test_device: &TestDevice,
    shape: &AttentionShape,
    storage: KvStorage,
    dtype: DType,
    scale: f64,
    tolerance: f64,
    rng: &mut StdRng,
) -> usize {
    let device = &test_device.device;
    let [batch, d] = [shape.lengths.len(), shape.head_dim];
    let mut expected = config(shape, storage)
        .init(&Device::flex(), DType::F32)
        .unwrap();
    let mut found = poisoned(shape, storage, dtype, device);
    let chunks = chunks(&shape.lengths);
    for chunk in &chunks {
        let step = expected.prefill(chunk).unwrap();
        let tokens = step.max_new_tokens();
        let mut rows = |heads| random([batch, heads, tokens, d], dtype, device, rng);
        let (keys, exact_keys) = rows(shape.n_kv_heads);
        let (values, exact_values) = rows(shape.n_kv_heads);
        let (query, exact_query) = rows(shape.n_heads);
        let layer = expected.layer_mut(0);
        ops::reference::append(layer, exact_keys, exact_values, &step);
        let reference = ops::reference::prefill_attention(exact_query, layer, &step, scale);
        let step = found.prefill(chunk).unwrap();
        let layer = found.layer_mut(0);
        ops::append(layer, keys, values, &step);
        let attended = ops::prefill_attention(query, layer, &step, scale);
        assert_close(
            &floats(attended),
            &floats(reference),
            tolerance,
            &format!("{test_device}, {shape}, {storage}, {dtype:?}, chunk {chunk:?}"),
        );
    }
    chunks.len()
}

#[test]
fn a_prompt_in_chunks_attends_as_the_tensor_operations_do() {
    let mut rng = StdRng::seed_from_u64(5);
    let mut compared = 0;
    for test_device in devices() {
        let device = &test_device.device;
        for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            for shape in shapes() {
                if !kernels::supports(device, dtype, shape.head_dim) {
                    continue;
                }
                assert!(
                    kernels::prefills(device, dtype, shape.head_dim),
                    "{test_device}, {shape}, {dtype:?}"
                );
                let scale = 1.0 / (shape.head_dim as f64).sqrt();
                for storage in forms(device) {
                    if storage == KvStorage::Full || shape.head_dim.is_multiple_of(16) {
                        let (device, rng) = (&test_device, &mut rng);
                        compared += compare(device, &shape, storage, dtype, scale, tolerance, rng);
                    }
                }
            }
        }
    }
    println!("{compared} chunks compared");
}

/// Some kernels rescale their output only when a score rises far above those before.
#[test]
fn scores_that_rise_far_attend_as_the_tensor_operations_do() {
    let mut rng = StdRng::seed_from_u64(6);
    let shape = AttentionShape {
        page_size: 16,
        head_dim: 64,
        n_heads: 2,
        n_kv_heads: 1,
        lengths: vec![300, 97],
        budget_pages: 3,
    };
    for test_device in devices() {
        for (dtype, tolerance) in [(DType::F32, 1e-3), (DType::F16, 1e-2)] {
            if kernels::supports(&test_device.device, dtype, shape.head_dim) {
                for storage in forms(&test_device.device) {
                    let (device, rng) = (&test_device, &mut rng);
                    compare(device, &shape, storage, dtype, 1.0, tolerance, rng);
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_prompt_of_more_pages_than_some_devices_launch_cubes_attends_to_all_of_it() {
    let mut rng = StdRng::seed_from_u64(7);
    let (before, tokens) = (2 * 32_770 * 8, 20);
    let shape = AttentionShape {
        page_size: 8,
        head_dim: 16,
        n_heads: 1,
        n_kv_heads: 1,
        lengths: vec![before + tokens],
        budget_pages: 3,
    };
    for test_device in devices() {
        let device = &test_device.device;
        for storage in forms(device) {
            let mut expected = config(&shape, storage)
                .init(&Device::flex(), DType::F32)
                .unwrap();
            let mut found = poisoned(&shape, storage, DType::F32, device);
            for new in [before / 2, before / 2, tokens] {
                let step = expected.prefill(&[new]).unwrap();
                let mut rows = || random([1, 1, new, 16], DType::F32, device, &mut rng);
                let [keys, values, query] = [rows(), rows(), rows()];
                let layer = expected.layer_mut(0);
                ops::reference::append(layer, keys.1, values.1, &step);
                let of_device = found.prefill(&[new]).unwrap();
                ops::append(found.layer_mut(0), keys.0, values.0, &of_device);
                if new == tokens {
                    let layer = expected.layer(0);
                    let reference = ops::reference::prefill_attention(query.1, layer, &step, 0.25);
                    let attended =
                        ops::prefill_attention(query.0, found.layer(0), &of_device, 0.25);
                    let case = format!("{test_device}, {storage}");
                    assert_close(&floats(attended), &floats(reference), 1e-4, &case);
                }
            }
        }
    }
}

#[test]
fn a_head_too_wide_for_the_shared_memory_is_left_to_the_tensor_operations() {
    for test_device in devices() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert!(!kernels::prefills(&test_device.device, dtype, 8192));
        }
    }
}
