//! The matrix instructions whose registers a kernel holds itself: `[16, 16]` by `[16, 8]` in half
//! precision, summed in f32, and `[16, 32]` by `[32, 8]` of bytes, summed in i32.

use burn::tensor::DType;
use cubecl::ir::{DeviceProperties, ElemType, FloatKind, IntKind, UIntKind, features::MmaConfig};

/// Units of a plane, which execute it together.
pub const PLANE: usize = 32;
/// LHS rows.
pub const ROWS: usize = 16;
/// Columns of the right side.
pub const COLUMNS: usize = 8;
/// Channels that it sums over.
pub const DEPTH: usize = 16;
/// Channels that it sums over when they are bytes.
pub const BYTE_DEPTH: usize = 32;
/// Elements of half precision in a register.
pub const PACKED: usize = 2;

/// Whether a device has it for a dtype, and cubes of so many units.
pub fn is_there(properties: &DeviceProperties, dtype: DType, units: usize) -> bool {
    let float = match dtype {
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        _ => return false,
    };
    let side = ElemType::Float(float);
    has(
        properties,
        [side, side, ElemType::Float(FloatKind::F32)],
        DEPTH,
        units,
    )
}

/// Whether a device has it for bytes, without a sign on the left and with one on the right, and cubes
/// of so many units.
pub fn takes_bytes(properties: &DeviceProperties, units: usize) -> bool {
    let types = [
        ElemType::UInt(UIntKind::U8),
        ElemType::Int(IntKind::I8),
        ElemType::Int(IntKind::I32),
    ];
    has(properties, types, BYTE_DEPTH, units)
}

fn has(
    properties: &DeviceProperties,
    [left, right, sum]: [ElemType; 3],
    depth: usize,
    units: usize,
) -> bool {
    let instruction = MmaConfig {
        a_type: left,
        b_type: right,
        cd_type: sum,
        m: ROWS as u32,
        n: COLUMNS as u32,
        k: depth as u32,
    };
    let hardware = &properties.hardware;
    properties.features.matmul.mma.contains(&instruction)
        && hardware.plane_size_min as usize == PLANE
        && hardware.max_units_per_cube as usize >= units
}
