use core::fmt;
use std::sync::Arc;

use burn::tensor::Tensor;

/// Who is shown the rows that a layer is applied to.
#[derive(Clone)]
pub struct InputObserver(Arc<dyn Fn(Tensor<2>) + Send + Sync>);

impl InputObserver {
    /// One that calls a function with every batch of rows, `[n, d_input]`.
    pub fn new(observe: impl Fn(Tensor<2>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    pub(in crate::layer) fn observe(&self, rows: Tensor<2>) {
        (self.0)(rows);
    }
}

impl fmt::Debug for InputObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InputObserver")
    }
}
