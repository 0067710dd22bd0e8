//! Linear layers as [CubeCL](https://github.com/tracel-ai/cubecl) kernels, for CUDA, ROCm, Vulkan,
//! Metal and WebGPU. Sums are kept in f32 whatever the dtype.
//!
//! [`device::supports`] says where they run; the layers of this crate call them there.

#![allow(
    clippy::assign_op_pattern,
    clippy::collapsible_if,
    clippy::manual_div_ceil,
    clippy::manual_is_multiple_of,
    clippy::too_many_arguments,
    reason = "cube functions know the plain operators, and kernels take what they read"
)]

#[doc(hidden)]
pub mod check;
#[doc(hidden)]
pub mod cooperative_matrix;
pub mod device;
pub(crate) mod extension;
pub(crate) mod half;
#[doc(hidden)]
pub mod launch;
pub mod linear;
mod matmul;
#[doc(hidden)]
pub mod matrix_instruction;
pub(crate) mod operands;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub mod ptx;
#[doc(hidden)]
pub mod rms_norm;
#[doc(hidden)]
pub mod row;
#[cfg(feature = "fusion")]
mod shapes;
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub mod warpgroup;

#[doc(hidden)]
pub use self::matmul::{MatmulKernel, matmul_kernels, matmul_rows_by};
pub use self::{matmul::matmul_rows, rms_norm::rms_norm};
