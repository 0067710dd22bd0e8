//! The operations of a decode step as [CubeCL](https://github.com/tracel-ai/cubecl) kernels, for
//! CUDA, ROCm, Vulkan, Metal and WebGPU.
//!
//! Kernels read lengths and the page table from device memory, and their grids are sized for the
//! capacity of the tensors, so that a captured step replays at any position. Sums are kept in f32
//! whatever the dtype of the cache.
//!
//! [`supported`] says where they run; [`crate::ops`] calls them there.

#![allow(
    clippy::assign_op_pattern,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::too_many_arguments,
    reason = "cube functions know the plain operators, and kernels take what they read"
)]

pub(crate) mod advance;
pub(crate) mod append;
mod check;
pub(crate) mod decode_state;
pub(crate) mod int8;
mod launch;
pub mod linear;
mod matrix_instruction;
pub(crate) mod page_scores;
pub(crate) mod paged_attention;
pub(crate) mod prefill_attention;
pub(crate) mod rms_norm;
pub(crate) mod rotate_append;
mod row;
mod selection;
pub(crate) mod top_pages;

use burn::{
    backend::{Dispatch, DispatchDevice, DispatchTensor, cubecl::dtype_to_storage_type},
    tensor::{DType, Device, Int, Tensor, assert_shape},
};
use cubecl::ir::features::Plane;

use self::check::{
    check_append, check_attention, check_bound, check_cache, check_dtype, check_groups,
    check_rotate_append, check_scores, check_scoring, check_selection,
};
pub use self::decode_state::{DecodeState, assign, next_tokens};
pub use self::int8::{
    int8_append, int8_appends, int8_best_attention, int8_page_scores, int8_rotate_append,
    int8_rotates, quantize_digests,
};
use crate::{PageSharing, ops::extension::QuestOps};

/// Whether the kernels run on this device: a CubeCL device whose units can exchange values
/// within a plane.
///
/// An autodiff device is not one of them, as the kernels have no backward pass.
pub fn supported(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(cube) => {
            let client = cube.client();
            let (features, hardware) =
                (&client.properties().features, &client.properties().hardware);
            let (least, most) = (hardware.plane_size_min, hardware.plane_size_max);
            // wgpu does not claim plane operations for drivers that run on the CPU, which have
            // them; where they are truly missing it reports a made-up range of sizes.
            (features.plane.contains(Plane::Ops) || least == most) && least.is_power_of_two()
        }
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// Whether the kernels run on this device with a cache of this dtype and head dim.
pub fn supports(device: &Device, dtype: DType, head_dim: usize) -> bool {
    let storable = match device.as_dispatch() {
        DispatchDevice::Cube(cube) => {
            let client = cube.client();
            let hardware = &client.properties().hardware;
            // The merge of splits has a unit per channel.
            client
                .properties()
                .supports_type(dtype_to_storage_type(dtype))
                && head_dim <= hardware.max_units_per_cube as usize
        }
        #[allow(unreachable_patterns)]
        _ => false,
    };
    let float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    float && storable && head_dim > 0 && supported(device)
}

/// Writes rows `j < lengths[i] - starts[i]` of `new_keys[i]` and `new_values[i]` at positions
/// `starts[i] + j` of sequence `i`, and folds the keys into the digests of their pages: a page
/// that begins with one of them gets a digest anew.
///
/// # Shapes
///
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`
/// - digests: `[n_pages, n_kv_heads, 2, head_dim]`
/// - new_keys (after RoPE), new_values: `[batch, n_kv_heads, tokens, head_dim]`
/// - page_table: `[batch, max_pages]`
/// - starts, lengths: `[batch]`
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or when a pool cannot be written in place because
/// another tensor shares its memory (with the `fusion` feature at the next synchronisation).
#[allow(clippy::too_many_arguments)]
pub fn append(
    keys: Tensor<4>,
    values: Tensor<4>,
    digests: Tensor<4>,
    new_keys: Tensor<4>,
    new_values: Tensor<4>,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let [batch, _, tokens, _] = new_keys.dims();
    check_append(
        (&keys, &values, &digests),
        (&new_keys, &new_values),
        (&page_table, &starts, &lengths),
    );
    if batch == 0 || tokens == 0 {
        return (keys, values, digests);
    }
    let (keys, values, digests) = Dispatch::append(
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        new_keys.into_dispatch(),
        new_values.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
    );
    (
        Tensor::from_dispatch(keys),
        Tensor::from_dispatch(values),
        Tensor::from_dispatch(digests),
    )
}

/// Whether [`prefill_attention`] runs on a device: one that has matrix instructions for the dtype and
/// the head dim, or whose shared memory holds a tile of such heads.
pub fn prefills(device: &Device, dtype: DType, head_dim: usize) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(cube) => {
            let client = cube.client();
            supported(device) && prefill_attention::supports(client.properties(), dtype, head_dim)
        }
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// Causal attention of the query tokens of a step over the pages of their sequences: token `i` of a
/// sequence, at position `starts + i`, sees the keys up to its own, which are in the cache already.
///
/// Rows past the tokens that a sequence gains are zeros.
///
/// # Shapes
///
/// - query, output: `[batch, n_heads, tokens, head_dim]`
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`
/// - page_table: `[batch, max_pages]`
/// - starts, lengths: `[batch]`
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or [`prefills`] says no.
pub fn prefill_attention(
    query: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
    scale: f32,
) -> Tensor<4> {
    let [n_pages, n_kv_heads, page_size, head_dim] = keys.dims();
    let [batch, n_heads, tokens, _] = query.dims();
    let [_, max_pages] = page_table.dims();
    assert_shape!(values, [n_pages, n_kv_heads, page_size, head_dim]);
    assert_shape!(query, [batch, n_heads, tokens, head_dim]);
    assert_shape!(page_table, [batch, max_pages]);
    assert_shape!(starts, [batch]);
    assert_shape!(lengths, [batch]);
    check_dtype("values", values.dtype(), keys.dtype());
    check_dtype("query", query.dtype(), keys.dtype());
    check_groups(n_heads, n_kv_heads);
    check_cache(&keys);
    assert!(
        prefills(&query.device(), query.dtype(), head_dim) && max_pages > 0,
        "query: expected a dtype and a head dim that the kernels of {:?} take, and a page table, \
         found {:?}, {head_dim} and {max_pages} columns",
        query.device(),
        query.dtype()
    );
    if batch == 0 || tokens == 0 {
        return query;
    }
    Tensor::from_dispatch(Dispatch::prefill_attention(
        query.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        scale,
    ))
}

/// Whether [`rotate_append`] runs on a device where the kernels do: some bind few buffers at a time.
pub fn rotates(device: &Device, normed: bool) -> bool {
    binds(device, rotate_append::bindings(normed))
}

/// Norms and rotates the queries and keys of a merged projection, appends as [`append`] does, and
/// gives the queries, in one launch.
///
/// # Shapes
///
/// - keys, values, digests, page_table, starts, lengths: as in [`append`]
/// - qkv: `[batch, tokens, n_heads + 2 * n_kv_heads, head_dim]`
/// - gammas: weights of the norms of query heads and key heads, `[2, head_dim]`
/// - rotations: cosines, then sines, `[batch, tokens, head_dim]` in f32
/// - output: the pools and the queries, `[batch, n_heads, tokens, head_dim]`
///
/// # Panics
///
/// As [`append`].
#[allow(clippy::type_complexity)]
pub fn rotate_append(
    (keys, values, digests): (Tensor<4>, Tensor<4>, Tensor<4>),
    qkv: Tensor<4>,
    norms: Option<(Tensor<2>, f64)>,
    rotations: Tensor<3>,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
) -> (Tensor<4>, Tensor<4>, Tensor<4>, Tensor<4>) {
    check_rotate_append(
        (&keys, &values, &digests),
        (&qkv, norms.as_ref(), &rotations),
        (&page_table, &starts, &lengths),
    );
    let normed = norms.is_some();
    let (gammas, epsilon) = norm_arguments(norms, &qkv);
    let (keys, values, digests, query) = Dispatch::rotate_append(
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        qkv.into_dispatch(),
        gammas,
        rotations.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        normed,
        epsilon,
    );
    (
        Tensor::from_dispatch(keys),
        Tensor::from_dispatch(values),
        Tensor::from_dispatch(digests),
        Tensor::from_dispatch(query),
    )
}

/// RMSNorm of every row, in f32 and rounded once before the weight.
///
/// # Shapes
///
/// - x, output: `[rows, d_model]`
/// - gamma: `[d_model]`
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn rms_norm(x: Tensor<2>, gamma: Tensor<1>, epsilon: f64) -> Tensor<2> {
    let [rows, d_model] = x.dims();
    assert_shape!(gamma, [d_model]);
    check_dtype("weight of the norm", gamma.dtype(), x.dtype());
    assert!(
        matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16) && rows > 0 && d_model > 0,
        "input of the norm: expected rows in F32, F16 or BF16, found {:?} in {:?}",
        x.dims(),
        x.dtype()
    );
    Tensor::from_dispatch(Dispatch::rms_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        epsilon as f32,
    ))
}

/// Adds 1 to every count of tokens, in place: how a captured step moves on when it is replayed.
///
/// # Shapes
///
/// - counts, output: `[batch]` in i32
///
/// # Panics
///
/// When the counts are not i32 or cannot be written in place.
pub fn advance(counts: Tensor<1, Int>) -> Tensor<1, Int> {
    check_dtype("token counts", counts.dtype(), DType::I32);
    Tensor::from_dispatch(Dispatch::advance(counts.into_dispatch()))
}

/// Upper bounds of `query . key` over the keys of each of the first `n_scores` pages.
///
/// # Shapes
///
/// - query: `[batch, n_heads, head_dim]`
/// - digests: `[n_pages, n_kv_heads, 2, head_dim]`
/// - page_table: `[batch, max_pages]`
/// - lengths: `[batch]`
/// - output: `[batch, heads, n_scores]` in f32 with `heads` the query heads, or the KV heads and
///   the maximum over each group. Entries past a sequence's pages are undefined.
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
pub fn page_scores(
    query: Tensor<3>,
    digests: Tensor<4>,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    page_size: usize,
    sharing: PageSharing,
    n_scores: usize,
) -> Tensor<3> {
    let [n_pages, n_kv_heads, _, head_dim] = digests.dims();
    let [batch, n_heads, _] = query.dims();
    let [_, max_pages] = page_table.dims();
    assert_shape!(digests, [n_pages, n_kv_heads, 2, head_dim]);
    assert_shape!(query, [batch, n_heads, head_dim]);
    assert_shape!(page_table, [batch, max_pages]);
    assert_shape!(lengths, [batch]);
    check_dtype("query", query.dtype(), digests.dtype());
    check_groups(n_heads, n_kv_heads);
    check_cache(&digests);
    check_scoring(page_size, n_scores);
    Tensor::from_dispatch(Dispatch::page_scores(
        query.into_dispatch(),
        digests.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        page_size,
        sharing == PageSharing::KvHead,
        n_scores,
    ))
}

/// The `k` pages with the highest scores of each sequence and head, ascending; ties go to the
/// lower page. A sequence of no more than `k` pages lists all of them, then -1.
///
/// The newest page, when pinned, and the first `sink_pages` are always in and count in `k`.
///
/// # Shapes
///
/// - scores: `[batch, heads, n_scores]` in f32
/// - lengths: `[batch]`
/// - output: `[batch, heads, k]` in i32
///
/// # Panics
///
/// When shapes do not fit together, more pages are always kept than `k`, or there are more than
/// 65,536 scores.
pub fn top_pages(
    scores: Tensor<3>,
    lengths: Tensor<1, Int>,
    page_size: usize,
    k: usize,
    pin_newest: bool,
    sink_pages: usize,
) -> Tensor<3, Int> {
    let [batch, _, n_scores] = scores.dims();
    assert_shape!(lengths, [batch]);
    check_dtype("page scores", scores.dtype(), DType::F32);
    assert!(page_size > 0, "page size: expected at least 1, found 0");
    check_scores(n_scores);
    check_selection(k, pin_newest, sink_pages);
    Tensor::from_dispatch(Dispatch::top_pages(
        scores.into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        page_size,
        k,
        pin_newest,
        sink_pages,
    ))
}

/// Attention of one query token per sequence over the listed pages, or over all of them.
///
/// Split over the pages and merged by log-sum-exp. A sequence without a valid token gets zeros. A
/// list of all pages gives exactly what no list gives.
///
/// # Shapes
///
/// - query, output: `[batch, n_heads, head_dim]`
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`
/// - pages: `[batch, heads, k]` with `heads` the query heads or the KV heads; logical page
///   numbers, -1 for none
/// - page_table: `[batch, max_pages]`
/// - lengths: `[batch]`
///
/// Without a list, `n_pages_bound` is the most pages that a sequence has now or when a captured
/// step is replayed.
///
/// # Panics
///
/// When shapes or dtypes do not fit together.
#[allow(clippy::too_many_arguments)]
pub fn paged_attention(
    query: Tensor<3>,
    keys: Tensor<4>,
    values: Tensor<4>,
    pages: Option<Tensor<3, Int>>,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    scale: f32,
    n_pages_bound: usize,
) -> Tensor<3> {
    let [_, n_kv_heads, _, _] = keys.dims();
    let [batch, n_heads, _] = query.dims();
    let [_, max_pages] = page_table.dims();
    check_attention(&query, &keys, &values, &page_table, &lengths);
    let page_table = page_table.cast(DType::I32).into_dispatch();
    let lengths = lengths.cast(DType::I32).into_dispatch();
    let query = query.into_dispatch();
    let (keys, values) = (keys.into_dispatch(), values.into_dispatch());
    let output = match pages {
        Some(pages) => {
            let [_, heads, k] = pages.dims();
            assert_shape!(pages, [batch, heads, k]);
            assert!(
                heads == n_heads || heads == n_kv_heads,
                "page lists: expected one for each of {n_heads} query heads or {n_kv_heads} KV \
                 heads, found {heads}"
            );
            assert!(k > 0, "page lists: expected at least one page, found 0");
            let pages = pages.cast(DType::I32).into_dispatch();
            Dispatch::listed_attention(query, keys, values, pages, page_table, lengths, scale)
        }
        None => {
            check_bound(n_pages_bound, max_pages);
            Dispatch::dense_attention(
                query,
                keys,
                values,
                page_table,
                lengths,
                scale,
                n_pages_bound,
            )
        }
    };
    Tensor::from_dispatch(output)
}

/// The pages that [`best_attention`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BestPages {
    /// Pages of each list.
    pub k: usize,
    /// Whether the newest page is always in.
    pub pin_newest: bool,
    /// First pages that are always in.
    pub sink_pages: usize,
    /// Which query heads share a list.
    pub sharing: PageSharing,
    /// Most pages that a sequence has, now or when a captured step is replayed.
    pub n_pages_bound: usize,
}

/// [`page_scores`], [`top_pages`] and [`paged_attention`] as one operation: three launches,
/// but one call of the host.
///
/// # Shapes
///
/// As in the three operations.
///
/// # Panics
///
/// As the three operations.
#[allow(clippy::too_many_arguments)]
pub fn best_attention(
    query: Tensor<3>,
    keys: Tensor<4>,
    values: Tensor<4>,
    digests: Tensor<4>,
    page_table: Tensor<2, Int>,
    lengths: Tensor<1, Int>,
    scale: f32,
    pages: BestPages,
) -> Tensor<3> {
    let [n_pages, n_kv_heads, _, head_dim] = keys.dims();
    let [_, max_pages] = page_table.dims();
    assert_shape!(digests, [n_pages, n_kv_heads, 2, head_dim]);
    check_dtype("digests", digests.dtype(), keys.dtype());
    check_attention(&query, &keys, &values, &page_table, &lengths);
    check_selection(pages.k, pages.pin_newest, pages.sink_pages);
    check_bound(pages.n_pages_bound, max_pages);
    check_scores(pages.n_pages_bound);
    Tensor::from_dispatch(Dispatch::best_attention(
        query.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        scale,
        pages,
    ))
}

/// Whether a launch on this device may have so many buffers.
fn binds(device: &Device, buffers: usize) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Cube(cube) => {
            cube.client().properties().hardware.max_bindings as usize >= buffers
        }
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// Weights of norms and their epsilon, and what stands in where there are none.
fn norm_arguments(norms: Option<(Tensor<2>, f64)>, qkv: &Tensor<4>) -> (DispatchTensor, f32) {
    match norms {
        Some((gammas, epsilon)) => (gammas.into_dispatch(), epsilon as f32),
        // Not read.
        None => (qkv.clone().into_dispatch(), 0.0),
    }
}
