//! Prompts in chunks on a device, and the same numbers on the host.

use burn::tensor::{DType, Device, Tensor, TensorData};
use quest_burn::{
    cache::{KvStorage, LayerCache, PagedKvCache, PagedKvCacheConfig, Step},
    digest::DigestKind,
    ops,
};
use quest_burn_tests::arrays::{poison, rows};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Heads and pages of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub page_size: usize,
    pub head_dim: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
}

impl Shape {
    pub(super) fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}

/// Heads of several sizes and groups, on pages of several sizes.
pub(super) const SHAPES: [Shape; 4] = [
    Shape {
        page_size: 16,
        head_dim: 128,
        n_heads: 4,
        n_kv_heads: 2,
    },
    Shape {
        page_size: 8,
        head_dim: 64,
        n_heads: 2,
        n_kv_heads: 2,
    },
    Shape {
        page_size: 32,
        head_dim: 80,
        n_heads: 3,
        n_kv_heads: 1,
    },
    Shape {
        page_size: 8,
        head_dim: 24,
        n_heads: 4,
        n_kv_heads: 2,
    },
];

/// Tokens that each of three sequences gains, chunk by chunk: chunks begin and end inside pages, one is of one
/// token, and some sequences wait.
pub(super) const CHUNKS: [[usize; 3]; 7] = [
    [37, 70, 3],
    [64, 0, 5],
    [1, 1, 1],
    [40, 33, 0],
    [0, 19, 0],
    [95, 64, 71],
    [18, 5, 33],
];

/// The chunk of a prompt that was appended last.
pub(super) struct Chunk {
    pub cache: PagedKvCache,
    pub step: Step,
    pub query: Tensor<4>,
    /// The query's rows, `[sequence][head][token]`.
    pub queries: Vec<Vec<Vec<Vec<f64>>>>,
    /// Of every token so far, `[sequence][kv head][token]`.
    pub keys: Vec<Vec<Vec<Vec<f64>>>>,
    pub values: Vec<Vec<Vec<Vec<f64>>>>,
}

impl Chunk {
    pub(super) fn layer(&self) -> &LayerCache {
        self.cache.layer(0)
    }
}

/// Calls `check` after each chunk of a prompt of random numbers that the dtype holds exactly. Pages that no token
/// has filled are NaN.
pub(super) fn for_each_chunk(
    shape: Shape,
    dtype: DType,
    digest: DigestKind,
    device: &Device,
    check: impl FnMut(&Chunk, &mut StdRng),
) {
    for_each_chunk_in(KvStorage::Full, shape, dtype, digest, device, check);
}

/// What a row is kept as.
fn kept(row: &[f64], storage: KvStorage) -> Vec<f64> {
    match storage {
        KvStorage::Full => row.to_vec(),
        KvStorage::Int8 => {
            let largest = row.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            let scale = largest as f32 / 127.0;
            let kept = |x: &f64| f64::from((*x as f32 / scale + 0.5).floor() * scale);
            row.iter().map(kept).collect()
        }
    }
}

/// [`for_each_chunk`] with keys and values in some form; those of the host are what rows are kept as.
pub(super) fn for_each_chunk_in(
    storage: KvStorage,
    shape: Shape,
    dtype: DType,
    digest: DigestKind,
    device: &Device,
    mut check: impl FnMut(&Chunk, &mut StdRng),
) {
    let mut rng = StdRng::seed_from_u64(11);
    let batch = CHUNKS[0].len();
    let lengths = (0..batch).map(|i| CHUNKS.iter().map(|chunk| chunk[i]).sum::<usize>());
    let n_pages = lengths.map(|n| n.div_ceil(shape.page_size)).sum();
    let config = PagedKvCacheConfig::new(1, shape.n_kv_heads, shape.head_dim, n_pages)
        .with_page_size(shape.page_size)
        .with_batch(batch)
        .with_digest(digest);
    let mut cache = config.init(device, dtype).unwrap();
    let layer = cache.layer_mut(0);
    let poisoned = LayerCache::from_parts(
        0,
        poison(layer.keys().dims(), device).cast(dtype),
        poison(layer.values().dims(), device).cast(dtype),
        layer.digest(),
        poison(layer.digests().dims(), device).cast(dtype),
    );
    *layer = match storage {
        KvStorage::Full => poisoned,
        KvStorage::Int8 => poisoned.with_int8_rows().unwrap(),
    };
    let none = vec![vec![Vec::new(); shape.n_kv_heads]; batch];
    let (mut keys, mut values) = (none.clone(), none);
    for new_tokens in CHUNKS {
        let step = cache.prefill(&new_tokens).unwrap();
        let mut drawn = |heads: usize| {
            let dims = [batch, heads, step.max_new_tokens(), shape.head_dim];
            let numbers = (0..dims.iter().product()).map(|_| rng.random_range(-2.0f32..2.0));
            let data = TensorData::new(numbers.collect::<Vec<_>>(), dims).convert_dtype(dtype);
            let tensor = Tensor::<4>::from_data(data, (device, dtype));
            let of_head = rows(&tensor);
            let of_head = of_head.chunks(dims[2]).map(<[Vec<f64>]>::to_vec);
            let of_head = of_head.collect::<Vec<_>>();
            let rows = of_head.chunks(heads).map(<[Vec<Vec<f64>>]>::to_vec);
            (tensor, rows.collect::<Vec<_>>())
        };
        let (new_keys, key_rows) = drawn(shape.n_kv_heads);
        let (new_values, value_rows) = drawn(shape.n_kv_heads);
        let (query, queries) = drawn(shape.n_heads);
        for (held, new) in [(&mut keys, key_rows), (&mut values, value_rows)] {
            for (sequence, new) in new.into_iter().enumerate() {
                for (head, mut new) in new.into_iter().enumerate() {
                    new.truncate(new_tokens[sequence]);
                    let held: &mut Vec<Vec<f64>> = &mut held[sequence][head];
                    held.extend(new.iter().map(|row| kept(row, storage)));
                }
            }
        }
        ops::append(cache.layer_mut(0), new_keys, new_values, &step);
        let chunk = Chunk {
            cache,
            step,
            query,
            queries,
            keys,
            values,
        };
        check(&chunk, &mut rng);
        (cache, keys, values) = (chunk.cache, chunk.keys, chunk.values);
    }
}
