use std::{collections::HashSet, sync::Arc};

use burn::{
    store::{FloatCastAdapter, ModuleAdapter, ModuleContext, burn_pack::Tensor},
    tensor::DType,
};

/// Casts what is read to an element type, but for some tensors.
#[derive(Clone)]
pub(super) struct Cast {
    to: FloatCastAdapter,
    kept: Arc<HashSet<String>>,
}

impl Cast {
    /// To `dtype`, but for those of the names `kept`.
    pub(super) fn new(dtype: DType, kept: HashSet<String>) -> Self {
        Self {
            to: FloatCastAdapter::to(dtype),
            kept: Arc::new(kept),
        }
    }
}

impl ModuleAdapter for Cast {
    fn adapt(&self, tensor: Tensor, context: ModuleContext<'_>) -> Tensor {
        match self.kept.contains(&tensor.name) {
            true => tensor,
            false => self.to.adapt(tensor, context),
        }
    }

    fn clone_box(&self) -> Box<dyn ModuleAdapter> {
        Box::new(self.clone())
    }
}
