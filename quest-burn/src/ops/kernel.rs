//! The operations as kernels, with what they need taken from the cache and the step.

use std::mem;

use burn::tensor::{Bool, DType, Int, Tensor, TensorData};

use crate::{
    PageSharing,
    attention::{HeadNorms, Rotations},
    cache::{Int8Digests, LayerCache, Step},
    digest::DigestKind,
    kernels::{self, BestPages},
    policy::{PageSelection, Pages},
};

/// Whether kernels run on this cache; the tensor operations serve where they do not.
pub fn supports(cache: &LayerCache) -> bool {
    let [_, _, _, head_dim] = cache.keys.dims();
    kernels::supports(&cache.keys.device(), cache.keys.dtype(), head_dim)
}

/// Takes the pools of a layer, which are to be written in place and put back.
///
/// Another tensor stands in for them meanwhile. An empty one, as `Tensor::extract` leaves, would
/// have to be allocated, and while a step is recorded no memory can be taken.
fn take_pools(cache: &mut LayerCache, stand_in: &Tensor<4>) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let take = |pool: &mut Tensor<4>| mem::replace(pool, stand_in.clone());
    (
        take(&mut cache.keys),
        take(&mut cache.values),
        take(&mut cache.digests),
    )
}

/// Takes the packed digests of a layer, where it has them and the launch that writes their pages
/// can pack them; those that are left need a launch of their own.
fn take_packed(cache: &mut LayerCache, packs: bool) -> Option<(Tensor<4, Int>, Tensor<3>)> {
    let packed = cache.int8_digests.take_if(|_| packs);
    packed.map(|Int8Digests { words, scales }| (words, scales))
}

pub fn append(cache: &mut LayerCache, keys: Tensor<4>, values: Tensor<4>, step: &Step) {
    let packs = kernels::int8_appends(&cache.keys.device());
    let packed = take_packed(cache, packs);
    let pools = take_pools(cache, &keys);
    let page_table = step.device_page_table().clone();
    let starts = step.device_starts().clone();
    let lengths = step.device_lengths().clone();
    let (pools, packed) = match packed {
        Some(packed) => {
            let (pools, (words, scales)) = kernels::int8_append(
                pools,
                packed,
                cache.digest,
                keys,
                values,
                page_table,
                starts,
                lengths,
            );
            (pools, Some(Int8Digests { words, scales }))
        }
        None => {
            let (pool_keys, pool_values, digests) = pools;
            let pools = kernels::append(
                pool_keys,
                pool_values,
                digests,
                cache.digest,
                keys,
                values,
                page_table,
                starts,
                lengths,
            );
            (pools, None)
        }
    };
    put_back(cache, pools, packed, step);
}

pub fn rotate_append(
    cache: &mut LayerCache,
    qkv: Tensor<4>,
    norms: Option<&HeadNorms>,
    rotations: &Rotations,
    step: &Step,
) -> Tensor<4> {
    let dtype = cache.keys.dtype();
    let packs = kernels::int8_rotates(&cache.keys.device(), norms.is_some());
    let packed = take_packed(cache, packs);
    let pools = take_pools(cache, &qkv);
    let qkv = qkv.cast(dtype);
    let norms = norms.map(|norms| (norms.gammas().cast(dtype), norms.epsilon()));
    let rotations = rotations.table();
    let page_table = step.device_page_table().clone();
    let starts = step.device_starts().clone();
    let lengths = step.device_lengths().clone();
    let (pools, packed, query) = match packed {
        Some(packed) => {
            let (pools, (words, scales), query) = kernels::int8_rotate_append(
                pools,
                packed,
                cache.digest,
                qkv,
                norms,
                rotations,
                page_table,
                starts,
                lengths,
            );
            (pools, Some(Int8Digests { words, scales }), query)
        }
        None => {
            let (keys, values, digests, query) = kernels::rotate_append(
                pools,
                cache.digest,
                qkv,
                norms,
                rotations,
                page_table,
                starts,
                lengths,
            );
            ((keys, values, digests), None, query)
        }
    };
    put_back(cache, pools, packed, step);
    query
}

/// Whether the prompt's attention is a kernel on this cache.
pub fn prefills(cache: &LayerCache) -> bool {
    let [_, _, _, head_dim] = cache.keys.dims();
    kernels::prefills(&cache.keys.device(), cache.keys.dtype(), head_dim)
}

pub fn prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
) -> Tensor<4> {
    let dtype = query.dtype();
    let output = kernels::prefill_attention(
        query.cast(cache.keys.dtype()),
        cache.keys.clone(),
        cache.values.clone(),
        step.device_page_table().clone(),
        step.device_starts().clone(),
        step.device_lengths().clone(),
        scale as f32,
    );
    output.cast(dtype)
}

/// Puts back the pools that a step wrote, and packs the digests that were not packed by then.
fn put_back(
    cache: &mut LayerCache,
    pools: (Tensor<4>, Tensor<4>, Tensor<4>),
    packed: Option<Int8Digests>,
    step: &Step,
) {
    (cache.keys, cache.values, cache.digests) = pools;
    match packed {
        Some(packed) => cache.int8_digests = Some(packed),
        None => quantize_digests(cache, step),
    }
}

/// Packs every digest of a pool: as those of one sequence with all its pages.
pub fn quantized_pool(kind: DigestKind, digests: Tensor<4>, head_dim: usize) -> Int8Digests {
    let [n_pages, n_kv_heads, _, _] = digests.dims();
    let device = digests.device();
    let Int8Digests {
        mut words,
        mut scales,
    } = Int8Digests::new(kind, n_pages, n_kv_heads, head_dim, &device);
    let pages = Tensor::<1, Int>::arange(0..n_pages as i64, (&device, DType::I32));
    let pages = pages.reshape([1, n_pages]);
    let count = |n: usize| Tensor::<1, Int>::full([1], n as i32, (&device, DType::I32));
    // Some devices launch fewer than 65,536 cubes along an axis.
    const PAGES: usize = 1 << 15;
    for first in (0..n_pages).step_by(PAGES) {
        let last = n_pages.min(first + PAGES);
        // How many tokens a page holds does not matter to its digest.
        let page_size = 1;
        (words, scales) = kernels::quantize_digests(
            words,
            scales,
            digests.clone(),
            kind,
            pages.clone(),
            count(first),
            count(last),
            page_size,
            last - first,
        );
    }
    Int8Digests { words, scales }
}

/// Packs the digests of the pages that a step writes.
fn quantize_digests(cache: &mut LayerCache, step: &Step) {
    // Taken out, as they are written in place.
    let Some(Int8Digests { words, scales }) = cache.int8_digests.take() else {
        return;
    };
    let (words, scales) = kernels::quantize_digests(
        words,
        scales,
        cache.digests.clone(),
        cache.digest,
        step.device_page_table().clone(),
        step.device_starts().clone(),
        step.device_lengths().clone(),
        step.page_size(),
        step.max_new_tokens(),
    );
    cache.int8_digests = Some(Int8Digests { words, scales });
}

pub fn page_scores(
    query: Tensor<3>,
    cache: &LayerCache,
    step: &Step,
    sharing: PageSharing,
) -> Tensor<3> {
    let query = query.cast(cache.keys.dtype());
    if let Some(Int8Digests { words, scales }) = cache.int8_digests.clone() {
        return kernels::int8_page_scores(
            query,
            words,
            scales,
            cache.digest,
            step.device_page_table().clone(),
            step.device_lengths().clone(),
            step.page_size(),
            sharing,
            step.max_pages(),
        );
    }
    kernels::page_scores(
        query,
        cache.digests.clone(),
        cache.digest,
        step.device_page_table().clone(),
        step.device_lengths().clone(),
        step.page_size(),
        sharing,
        step.max_pages(),
    )
}

pub fn top_pages(scores: Tensor<3>, step: &Step, selection: &PageSelection) -> Pages {
    Pages::Listed {
        ids: kernels::top_pages(
            scores,
            step.device_lengths().clone(),
            step.page_size(),
            selection.k,
            selection.sink_pages,
            selection.recent_pages,
        ),
        counts: selection.counts(step),
    }
}

pub fn paged_attention(
    query: Tensor<3>,
    cache: &mut LayerCache,
    pages: &Pages,
    step: &Step,
    scale: f64,
) -> Tensor<3> {
    let dtype = query.dtype();
    let out = kernels::paged_attention(
        query.cast(cache.keys.dtype()),
        cache.keys.clone(),
        cache.values.clone(),
        match pages {
            Pages::All => None,
            Pages::Listed { ids, .. } => Some(ids.clone()),
            Pages::Tokens(_) => unreachable!("lists of tokens have an operation of their own"),
        },
        step.device_page_table().clone(),
        step.device_lengths().clone(),
        scale as f32,
        step.max_pages(),
    );
    zero_where_idle(out.cast(dtype), step)
}

pub fn best_attention(
    query: Tensor<3>,
    cache: &mut LayerCache,
    step: &Step,
    selection: &PageSelection,
    sharing: PageSharing,
    scale: f64,
) -> Tensor<3> {
    let dtype = query.dtype();
    let pages = BestPages {
        k: selection.k,
        sink_pages: selection.sink_pages,
        recent_pages: selection.recent_pages,
        sharing,
        n_pages_bound: step.max_pages(),
    };
    let query = query.cast(cache.keys.dtype());
    let (keys, values) = (cache.keys.clone(), cache.values.clone());
    let page_table = step.device_page_table().clone();
    let lengths = step.device_lengths().clone();
    let scale = scale as f32;
    let out = match cache.int8_digests.clone() {
        Some(Int8Digests { words, scales }) => kernels::int8_best_attention(
            query,
            keys,
            values,
            words,
            scales,
            cache.digest,
            page_table,
            lengths,
            scale,
            pages,
        ),
        None => {
            let digests = cache.digests.clone();
            kernels::best_attention(
                query,
                keys,
                values,
                digests,
                cache.digest,
                page_table,
                lengths,
                scale,
                pages,
            )
        }
    };
    zero_where_idle(out.cast(dtype), step)
}

/// Zeros for sequences that gain no token.
fn zero_where_idle(out: Tensor<3>, step: &Step) -> Tensor<3> {
    let batch = step.batch();
    let idle = (0..batch).map(|sequence| step.new_tokens(sequence) == 0);
    let idle = idle.collect::<Vec<_>>();
    if !idle.contains(&true) {
        return out;
    }
    let idle = TensorData::new(idle, [batch, 1, 1]);
    let idle = Tensor::<3, Bool>::from_data(idle, &out.device());
    let shape = out.dims();
    out.mask_fill(idle.expand(shape), 0.0)
}
