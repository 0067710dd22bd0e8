//! Causal attention of many query tokens over the pages of their sequences: the forward pass of
//! FlashAttention-2 (Dao, 2023) on a paged cache. No score reaches device memory.
//!
//! | kernel | products | where |
//! |---|---|---|
//! | `warpgroup` | warpgroup instructions | H100 and H200, half precision, heads of 64 and 128 channels |
//! | [`mod@matrix`] | matrix instructions | CUDA, half precision, heads of up to 128 channels |
//! | [`mod@cooperative`] | cooperative matrices | Vulkan, half precision, heads of up to 256 channels |
//! | [`mod@units`] | each unit its own, in f32 | every device whose shared memory holds a tile |
//!
//! They read whole keys and values. Those that are kept in 8 bits are widened before, a layer at a time, the
//! pages of the sequences only ([`mod@whole`]): a prompt's products take longer than this, and go on as they do.

mod cooperative;
mod matrix;
mod place;
mod units;
#[cfg(feature = "cuda")]
mod warpgroup;
mod whole;

use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Tensor, assert_shape},
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{
    ir::DeviceProperties,
    prelude::{AddressType, CubeCount},
};

use self::whole::{Whole, whole};
use super::{
    check::{check_groups, check_page_lists, check_read},
    device::{is_cube_with, supported},
    extension::QuestOps,
    launch::{address_type, empty},
    operands::{Places, Rows},
};
use crate::cache::{KvRows, Sequences};

/// Whether [`prefill_attention`] runs on a device: one that has matrix instructions for the dtype and
/// the head dim, or whose shared memory holds a tile of such heads.
pub fn prefills(device: &Device, dtype: DType, head_dim: usize) -> bool {
    supported(device) && is_cube_with(device, |properties| supports(properties, dtype, head_dim))
}

/// Causal attention of the query tokens of a step over the pages of their sequences: token `i` of a
/// sequence, at position `starts + i`, sees the keys up to its own, which are in the cache already.
///
/// Rows past the tokens that a sequence gains are zeros.
///
/// A page table with a row per KV head of each sequence, `[batch * n_kv_heads, max_pages]`, gives each head pages
/// of its own.
///
/// # Shapes
///
/// - query, output: `[batch, n_heads, tokens, head_dim]`
/// - keys, values: `[n_pages, n_kv_heads, page_size, head_dim]`, whole or in 8 bits
///
/// # Panics
///
/// When shapes or dtypes do not fit together, or [`prefills`] says no.
pub fn prefill_attention(
    query: Tensor<4>,
    keys: impl Into<KvRows>,
    values: impl Into<KvRows>,
    sequences: &Sequences,
    scale: f32,
) -> Tensor<4> {
    let (keys, values) = (keys.into(), values.into());
    let [_, n_kv_heads, _, head_dim] = keys.dims();
    let [batch, n_heads, tokens, _] = query.dims();
    assert_shape!(query, [batch, n_heads, tokens, head_dim]);
    assert_shape!(&sequences.starts, [batch]);
    check_page_lists(batch, n_kv_heads, sequences);
    check_read(&keys, &values, query.dtype());
    check_groups(n_heads, n_kv_heads);
    assert!(
        prefills(&query.device(), query.dtype(), head_dim),
        "query: expected a dtype and a head dim that the kernels of {:?} take, found {:?} and \
         {head_dim}",
        query.device(),
        query.dtype()
    );
    if tokens == 0 {
        return query;
    }
    Tensor::from_dispatch(Dispatch::prefill_attention(
        query.into_dispatch(),
        keys.into(),
        values.into(),
        sequences.into(),
        scale,
    ))
}

/// What a launch reads: contiguous queries, pools and page table, and where the new tokens of each
/// sequence start and end.
struct Inputs {
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    page_table: CubeTensor,
    starts: CubeTensor,
    lengths: CubeTensor,
    scale: f32,
}

impl Inputs {
    /// Cubes of `run` query tokens each: runs of query tokens, query heads, sequences.
    fn cubes(&self, run: usize) -> CubeCount {
        let [batch, n_heads, tokens, _] = self.query.meta.shape().dims::<4>();
        CubeCount::Static(tokens.div_ceil(run) as u32, n_heads as u32, batch as u32)
    }

    fn address_type(&self) -> AddressType {
        address_type(&[&self.query, &self.keys, &self.values])
    }
}

/// Whether one of the kernels runs on a device with this dtype and head dim.
fn supports(properties: &DeviceProperties, dtype: DType, head_dim: usize) -> bool {
    matrix::supports(properties, dtype, head_dim)
        || units::supports(&properties.hardware, dtype, head_dim)
}

/// Attention of the tokens that a step adds, `[batch, n_heads, tokens, head_dim]`; zeros past those
/// of a sequence.
pub(super) fn launch(
    query: CubeTensor,
    keys: Rows<CubeBackend>,
    values: Rows<CubeBackend>,
    places: Places<CubeBackend>,
    scale: f32,
) -> CubeTensor {
    let query = into_contiguous(query);
    let shape = query.meta.shape().dims::<4>();
    let output = empty(&query, shape, query.dtype);
    let client = query.client.clone();
    let Whole {
        keys,
        values,
        page_table,
    } = whole(&query, keys, values, &places);
    let inputs = Inputs {
        query,
        keys,
        values,
        page_table,
        starts: places.starts,
        lengths: places.lengths,
        scale,
    };
    #[cfg(feature = "cuda")]
    // It looks for the highest product, which is the highest score of a scale above 0.
    if scale > 0.0 && warpgroup::supports(client.properties(), output.dtype, shape[3]) {
        warpgroup::launch(inputs, output.clone());
        return output;
    }
    if matrix::supports(client.properties(), output.dtype, shape[3]) {
        matrix::launch(inputs, output.clone());
    } else if let Some(shape) = cooperative::shape(&inputs) {
        cooperative::launch(inputs, output.clone(), shape);
    } else {
        units::launch(inputs, output.clone());
    }
    output
}
