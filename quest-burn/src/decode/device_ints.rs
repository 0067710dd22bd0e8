use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::kernels;

/// Integers on the device that recorded steps read, and that the host writes over in place.
pub(super) struct DeviceInts {
    tensor: Option<Tensor<1, Int>>,
    values: Vec<i32>,
}

impl DeviceInts {
    pub(super) fn new(values: Vec<i32>, device: &Device) -> Self {
        Self {
            tensor: Some(ints(values.iter().copied(), device)),
            values,
        }
    }

    /// The memory that is written over. It has to be let go of before that.
    pub(super) fn tensor(&self) -> Tensor<1, Int> {
        self.tensor.clone().expect("it is put back after each use")
    }

    /// Writes the integers, as many as before, unless they are there already.
    pub(super) fn write(&mut self, values: Vec<i32>) {
        if values == self.values {
            return;
        }
        let tensor = self.tensor.take().expect("it is put back after each use");
        let new = ints(values.iter().copied(), &tensor.device());
        self.tensor = Some(kernels::assign(tensor, new));
        self.values = values;
    }
}

pub(super) fn ints(values: impl Iterator<Item = i32>, device: &Device) -> Tensor<1, Int> {
    let values = values.collect::<Vec<_>>();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), (device, DType::I32))
}
