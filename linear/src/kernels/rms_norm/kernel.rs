use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::super::{
    launch::{address_type, empty},
    row::{RowLayout, cube_sum},
};

/// Most units of a cube.
const UNITS: usize = 512;

/// A normed value, rounded, times its weight.
///
/// The product is exact in f32: rounded, it is that of the dtype itself, in which not every device can
/// multiply.
#[cube]
pub fn scaled<F: Float, N: Size>(normed: Vector<f32, N>, gamma: Vector<F, N>) -> Vector<F, N> {
    let rounded = Vector::<F, N>::cast_from(normed);
    Vector::cast_from(Vector::<f32, N>::cast_from(rounded) * Vector::<f32, N>::cast_from(gamma))
}

/// One cube per row.
#[cube(launch_unchecked, address_type = "dynamic")]
fn rms_norm_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    gamma: &Tensor<Vector<F, N>>,
    output: &mut Tensor<Vector<F, N>>,
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] units: usize,
    #[comptime] plane: usize,
    #[define(F)] _dtype: ElemType,
) {
    let d_model = x.shape(1);
    let vectors = d_model / width;
    let row = CUBE_POS_X as usize * vectors;
    let mut sum = f32::new(0.0);
    let mut i = UNIT_POS as usize;
    while i < vectors {
        let value = Vector::<f32, N>::cast_from(x[row + i]);
        sum += (value * value).vector_sum();
        i += units;
    }
    let total = cube_sum(sum, units, plane);
    let rms = f32::sqrt(total / f32::cast_from(d_model) + epsilon);
    let rms = Vector::<f32, N>::new(rms);
    let mut i = UNIT_POS as usize;
    while i < vectors {
        let value = Vector::<f32, N>::cast_from(x[row + i]);
        output[row + i] = scaled::<F, N>(value / rms, gamma[i]);
        i += units;
    }
}

/// RMSNorm of every row.
pub(crate) fn launch_rms_norm(x: CubeTensor, gamma: CubeTensor, epsilon: f32) -> CubeTensor {
    let x = into_contiguous(x);
    let (rows, d_model) = (x.meta.shape()[0], x.meta.shape()[1]);
    let layout = RowLayout::of(&x);
    let client = x.client.clone();
    let hardware = &client.properties().hardware;
    let plane = layout.plane;
    let max_units = UNITS.min(hardware.max_units_per_cube as usize).max(plane);
    let units = (d_model / layout.width)
        .next_power_of_two()
        .clamp(plane, 1 << max_units.ilog2());
    let output = empty(&x, [rows, d_model], x.dtype);
    let address = address_type(&[&x, &output]);
    let dtype = dtype_to_storage_type(x.dtype);
    // SAFETY: columns are masked by the length of a row; the shapes were checked before the
    // operation was registered.
    unsafe {
        rms_norm_kernel::launch_unchecked(
            &client,
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d(units as u32),
            address,
            layout.width,
            x.into_tensor_arg(),
            into_contiguous(gamma).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            epsilon,
            layout.width,
            units,
            plane,
            dtype,
        );
    }
    output
}
