//! Which kernels multiply, and where.

use std::fmt::{self, Display, Formatter};

use burn::tensor::{DType, Device};
use cubecl::ir::DeviceProperties;

use super::super::device::is_cube_with;
#[cfg(feature = "cuda")]
use super::{mma, warpgroup};

/// A kernel of products of many rows, for those who hold kernels against one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulKernel {
    /// By the instructions of H100 and H200.
    #[cfg(feature = "cuda")]
    Warpgroup,
    /// By the matrix instructions of a plane, for NVIDIA's GPUs from Ampere on: with tiles of a size, by its place among
    /// all sizes, or of that which shapes decide.
    #[cfg(feature = "cuda")]
    Mma(Option<usize>),
    /// The one of cubek's that shapes decide.
    Cubek,
}

impl MatmulKernel {
    /// Whether it multiplies by weights `[d_output, d_input]` on a device.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "cubek's kernels take all")
    )]
    pub(super) fn takes(
        self,
        properties: &DeviceProperties,
        dtype: DType,
        shape: [usize; 2],
    ) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Warpgroup => warpgroup::takes(properties, dtype, shape),
            #[cfg(feature = "cuda")]
            Self::Mma(None) => mma::takes(properties, dtype, shape),
            #[cfg(feature = "cuda")]
            Self::Mma(Some(size)) => {
                mma::takes(properties, dtype, shape)
                    && mma::sizes(properties, dtype).any(|there| there == size)
            }
            Self::Cubek => true,
        }
    }
}

impl Display for MatmulKernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(feature = "cuda")]
            Self::Warpgroup => f.write_str("warpgroup"),
            #[cfg(feature = "cuda")]
            Self::Mma(None) => f.write_str("mma"),
            #[cfg(feature = "cuda")]
            Self::Mma(Some(size)) => write!(f, "mma {}", mma::name(*size)),
            Self::Cubek => f.write_str("cubek"),
        }
    }
}

/// The kernels that multiply by weights `[d_output, d_input]` on a device, apart from that by cooperative matrices. The
/// first one is taken, where that one is not.
pub fn matmul_kernels(device: &Device, dtype: DType, shape: [usize; 2]) -> Vec<MatmulKernel> {
    let mut kernels = vec![];
    #[cfg(feature = "cuda")]
    {
        kernels.extend([MatmulKernel::Warpgroup, MatmulKernel::Mma(None)]);
        kernels.extend((0..mma::N_SIZES).map(|size| MatmulKernel::Mma(Some(size))));
    }
    kernels.push(MatmulKernel::Cubek);
    kernels
        .retain(|kernel| is_cube_with(device, |properties| kernel.takes(properties, dtype, shape)));
    kernels
}
