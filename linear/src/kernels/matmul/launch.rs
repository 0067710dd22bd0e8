//! Which kernel multiplies.

use burn_cubecl::tensor::CubeTensor;

#[cfg(feature = "cuda")]
use super::warpgroup;
use super::{super::launch::empty, cooperative, cubek};

/// `rows [n, d_input]` times the transpose of `weight [d_output, d_input]`.
pub(crate) fn launch_matmul_rows(rows: CubeTensor, weight: CubeTensor) -> CubeTensor {
    let (n, d_output) = (rows.meta.shape()[0], weight.meta.shape()[0]);
    let output = empty(&rows, [n, d_output], rows.dtype);
    if n == 0 || d_output == 0 {
        return output;
    }
    #[cfg(feature = "cuda")]
    if warpgroup::takes(
        rows.client.properties(),
        rows.dtype,
        weight.meta.shape().dims::<2>(),
    ) {
        warpgroup::launch(rows, weight, &output);
        return output;
    }
    if !cooperative::launch(&rows, &weight, &output) {
        cubek::launch(rows, weight, &output);
    }
    output
}
