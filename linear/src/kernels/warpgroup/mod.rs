//! The matrix instructions of NVIDIA's Hopper (H100, H200), which four planes execute together on tiles in
//! shared memory, and copies to shared memory that go on while a unit computes.
//!
//! CubeCL 0.11 knows neither; `ptx/` adds them as an operation with a lowering of its own.

#[cfg(test)]
pub(super) mod fixture;
mod instructions;
mod stages;

use cubecl::ir::DeviceProperties;

pub use self::{
    instructions::{
        complete, exp2, multiply, multiply_registers, multiply_words, publish, wait_for_products,
    },
    stages::{aligned, next_stage, place_of_part, stage_before, two_stages_before},
};
pub use super::ptx::{copy, end_copies, ptx_name, shared_address, wait_for_copies};
use super::{matrix_instruction::PLANE, ptx::is_compiled};

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

/// Whether a device has them, and CubeCL compiles them.
pub fn is_there(properties: &DeviceProperties) -> bool {
    is_compiled() && properties.identity.fingerprint == HOPPER
}
