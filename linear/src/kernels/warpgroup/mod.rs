//! The matrix instructions of NVIDIA's Hopper (H100, H200), which four planes execute together on tiles in
//! shared memory, and copies to shared memory that go on while a unit computes.
//!
//! CubeCL 0.11 knows neither; `ptx.rs` adds them as an operation with a lowering of its own.

#[cfg(test)]
pub(super) mod fixture;
mod instructions;
mod ptx;
mod stages;

use burn::tensor::DType;
use cubecl::{cuda::compiler::CudaBackend, ir::DeviceProperties};

pub use self::{
    instructions::{
        complete, copy, end_copies, exp2, multiply, multiply_registers, multiply_words, publish,
        shared_address, wait_for_copies, wait_for_products,
    },
    stages::{aligned, next_stage, place_of_part, two_stages_before},
};
use super::matrix_instruction::PLANE;

/// The architecture that has the instructions. Later ones have others.
pub const HOPPER: &str = "ptx_sm90";
/// Planes that execute an instruction.
pub const GROUP_PLANES: usize = 4;
/// Units that execute an instruction.
pub const GROUP_UNITS: usize = GROUP_PLANES * PLANE;
/// Rows of an instruction.
pub const GROUP_ROWS: usize = 64;
/// Copies of 16 bytes of a row of a tile, of 128 bytes. In row `r`, copy `p` lies at `p ^ r % 8`.
pub const PARTS: usize = 8;
/// Bytes of a row of a tile.
pub const ROW_BYTES: usize = PARTS * 16;
/// Bytes of the rows of an instruction.
pub const GROUP_BYTES: usize = GROUP_ROWS * ROW_BYTES;
/// Eight rows of a tile, with which the permutation repeats, begin at multiples of so many bytes.
pub const ALIGNMENT: usize = 8 * ROW_BYTES;

/// Whether a device has them, and CubeCL compiles for it through LLVM: C++ would have to know the operation
/// as well.
pub fn is_there(properties: &DeviceProperties) -> bool {
    CudaBackend::default() == CudaBackend::Llvm && properties.identity.fingerprint == HOPPER
}

/// A dtype of half precision as PTX calls it.
pub fn ptx_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        _ => "f16",
    }
}
