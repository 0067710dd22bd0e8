//! The matrix instruction whose registers a kernel holds itself: `[16, 16]` by `[16, 8]` in half
//! precision, summed in f32.

use burn::tensor::DType;
use cubecl::ir::{DeviceProperties, ElemType, FloatKind, features::MmaConfig};

/// Units of a plane, which execute it together.
pub(super) const PLANE: usize = 32;
/// Rows of the left side.
pub(super) const ROWS: usize = 16;
/// Columns of the right side.
pub(super) const COLUMNS: usize = 8;
/// Channels that it sums over.
pub(super) const DEPTH: usize = 16;
/// Elements of half precision in a register.
pub(super) const PACKED: usize = 2;

/// Whether a device has it for a dtype, and cubes of so many units.
pub(super) fn is_there(properties: &DeviceProperties, dtype: DType, units: usize) -> bool {
    let float = match dtype {
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        _ => return false,
    };
    let instruction = MmaConfig {
        a_type: ElemType::Float(float),
        b_type: ElemType::Float(float),
        cd_type: ElemType::Float(FloatKind::F32),
        m: ROWS as u32,
        n: COLUMNS as u32,
        k: DEPTH as u32,
    };
    let hardware = &properties.hardware;
    properties.features.matmul.mma.contains(&instruction)
        && hardware.plane_size_min as usize == PLANE
        && hardware.max_units_per_cube as usize >= units
}
