//! Cooperative matrices, the matrix instructions of Vulkan and Metal (`cmma` in CubeCL): a plane multiplies
//! fragments, and which lane holds which element is the driver's business.

use burn_cubecl::tensor::CubeTensor;
use cubecl::{
    cmma::{Matrix, MatrixIdent, MatrixLayout},
    ir::{DeviceProperties, FloatKind, UIntKind, features::Plane},
    prelude::*,
};

/// Elements of a vector: what SPIR-V and WGSL have at most.
pub const WIDTH: usize = 4;
/// Bytes to which rows of fragments in shared memory are aligned.
pub const ALIGNMENT: usize = 16;
/// The runtime that loads fragments from memory of any element type.
const SPIRV: &str = "wgpu<spirv>";

/// Rows, columns and depth of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// What a device has for an element type: the instruction, summed in f32, and the units of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instruction {
    pub fragment: Fragment,
    pub plane: usize,
}

impl Instruction {
    /// The largest square one, where every plane has as many units and can wait for them.
    pub fn of(properties: &DeviceProperties, element: ElemType) -> Option<Self> {
        let hardware = &properties.hardware;
        let fixed = hardware.plane_size_min == hardware.plane_size_max;
        if !fixed || !properties.features.plane.contains(Plane::Sync) {
            return None;
        }
        let sums = ElemType::Float(FloatKind::F32);
        let instructions = properties.features.matmul.cmma.iter();
        instructions
            .filter(|i| i.a_type == element && i.b_type == element && i.cd_type == sums)
            .map(|i| Fragment {
                m: i.m as usize,
                n: i.n as usize,
                k: i.k as usize,
            })
            .max_by_key(|f| (f.m == f.n, f.m * f.n * f.k))
            .map(|fragment| Self {
                fragment,
                plane: hardware.plane_size_min as usize,
            })
    }
}

/// Whether a tensor's runtime is Vulkan's.
pub fn is_spirv(tensor: &CubeTensor) -> bool {
    tensor.client.name() == SPIRV
}

/// What is copied as words: `packed` elements each.
pub fn word(element: ElemType, packed: usize) -> ElemType {
    match packed {
        1 => element,
        _ => ElemType::UInt(UIntKind::U32),
    }
}

/// Sums of nothing.
#[cube]
pub fn empty_sums(#[comptime] fragment: Fragment) -> Matrix<f32> {
    Matrix::<f32>::from_value(
        MatrixIdent::Accumulator,
        fragment.m,
        fragment.n,
        fragment.k,
        MatrixLayout::Undefined,
        0.0f32,
    )
}

/// A left side, rows one after the other, that has to be loaded before it is multiplied.
#[cube]
pub fn left_side<F: Float>(#[comptime] fragment: Fragment) -> Matrix<F> {
    // SAFETY: who takes it loads it whole before it is read.
    unsafe {
        Matrix::<F>::uninitialized(
            MatrixIdent::A,
            fragment.m,
            fragment.n,
            fragment.k,
            MatrixLayout::RowMajor,
        )
    }
}

/// A right side in a layout, that has to be loaded before it is multiplied.
#[cube]
pub fn right_side<F: Float>(#[comptime] fragment: Fragment, layout: MatrixLayout) -> Matrix<F> {
    // SAFETY: as for the left side.
    unsafe {
        Matrix::<F>::uninitialized(MatrixIdent::B, fragment.m, fragment.n, fragment.k, layout)
    }
}
