//! Causal attention of many query tokens over the pages of their sequences: the forward pass of
//! FlashAttention-2 (Dao, 2023) on a paged cache. No score reaches device memory.
//!
//! | kernel | products | where |
//! |---|---|---|
//! | [`mod@matrix`] | matrix instructions | CUDA, half precision, heads of up to 128 channels |
//! | [`mod@units`] | each unit its own, in f32 | every device whose shared memory holds a tile |

mod matrix;
mod place;
mod units;

use burn::tensor::DType;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::ir::DeviceProperties;

use super::launch::empty;

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

/// Whether one of the kernels runs on a device with this dtype and head dim.
pub(super) fn supports(properties: &DeviceProperties, dtype: DType, head_dim: usize) -> bool {
    matrix::supports(properties, dtype, head_dim)
        || units::supports(&properties.hardware, dtype, head_dim)
}

/// Attention of the tokens that a step adds, `[batch, n_heads, tokens, head_dim]`; zeros past those
/// of a sequence.
#[allow(clippy::too_many_arguments)]
pub(crate) fn prefill_attention(
    query: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    page_table: CubeTensor,
    starts: CubeTensor,
    lengths: CubeTensor,
    scale: f32,
) -> CubeTensor {
    let query = into_contiguous(query);
    let shape = query.meta.shape().dims::<4>();
    let output = empty(&query, shape, query.dtype);
    let client = query.client.clone();
    let inputs = Inputs {
        query,
        keys: into_contiguous(keys),
        values: into_contiguous(values),
        page_table: into_contiguous(page_table),
        starts,
        lengths,
        scale,
    };
    if matrix::supports(client.properties(), output.dtype, shape[3]) {
        matrix::launch(inputs, output.clone());
    } else {
        units::launch(inputs, output.clone());
    }
    output
}
