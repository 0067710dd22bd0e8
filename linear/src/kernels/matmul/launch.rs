//! Which kernel multiplies.

use burn_cubecl::tensor::CubeTensor;

use super::{super::launch::empty, choice::MatmulKernel, cooperative, cubek};
#[cfg(feature = "cuda")]
use super::{mma, warpgroup};

/// `rows [n, d_input]` times the transpose of `weight [d_output, d_input]`, by a kernel if one is named.
pub(crate) fn launch_matmul_rows(
    rows: CubeTensor,
    weight: CubeTensor,
    named: Option<MatmulKernel>,
) -> CubeTensor {
    let [n, _] = rows.meta.shape().dims::<2>();
    let [d_output, d_input] = weight.meta.shape().dims::<2>();
    let output = empty(&rows, [n, d_output], rows.dtype);
    if n == 0 || d_output == 0 {
        return output;
    }
    let takes = |kernel: MatmulKernel| {
        let properties = rows.client.properties();
        kernel.takes(properties, rows.dtype, [d_output, d_input])
    };
    if let Some(kernel) = named {
        assert!(
            takes(kernel),
            "matrix product: expected shapes, dtype and device that the kernel {kernel} takes, found weights \
             [{d_output}, {d_input}] in {:?}",
            rows.dtype
        );
    }
    let kernel = named.or_else(|| chosen(takes));
    match kernel {
        #[cfg(feature = "cuda")]
        Some(MatmulKernel::Warpgroup) => warpgroup::launch(rows, weight, &output),
        #[cfg(feature = "cuda")]
        Some(MatmulKernel::Mma(size)) => mma::launch(rows, weight, &output, size),
        Some(MatmulKernel::Cubek) => cubek::launch(rows, weight, &output),
        None => {
            if !cooperative::launch(&rows, &weight, &output) {
                cubek::launch(rows, weight, &output);
            }
        }
    }
    output
}

/// The fastest of those that only some devices have.
#[cfg(feature = "cuda")]
fn chosen(takes: impl Fn(MatmulKernel) -> bool) -> Option<MatmulKernel> {
    let kernels = [MatmulKernel::Warpgroup, MatmulKernel::Mma(None)];
    kernels.into_iter().find(|&kernel| takes(kernel))
}

#[cfg(not(feature = "cuda"))]
fn chosen(_takes: impl Fn(MatmulKernel) -> bool) -> Option<MatmulKernel> {
    None
}
