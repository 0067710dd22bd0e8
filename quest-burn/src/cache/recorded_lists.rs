//! Lists of pages that stay on the device from one replay of a recorded step to the next.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::{Int, Tensor};

/// The lists of each layer, which recorded steps over the same sequences share.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceLists(Arc<Mutex<BTreeMap<usize, Tensor<3, Int>>>>);

/// What a recorded step does with the lists of policies whose choices serve several steps.
#[derive(Clone, Debug)]
pub(crate) struct RecordedLists {
    /// The sequences whose lists it makes, `[batch]`; none where it reads what a step that was recorded before makes.
    pub due: Option<Tensor<1, Int>>,
    pub lists: DeviceLists,
}

impl RecordedLists {
    /// The lists of a layer, `[batch, lists, k]`, after `renew` has made those anew that are due, where the step
    /// does so. It is given which those are and the lists that there were, if any, to write them in place.
    pub(crate) fn renewed(
        &self,
        layer: usize,
        renew: impl FnOnce(Tensor<1, Int>, Option<Tensor<3, Int>>) -> Tensor<3, Int>,
    ) -> Tensor<3, Int> {
        let lists = &self.lists.0;
        let mut lists = lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(due) = &self.due {
            let kept = lists.remove(&layer);
            lists.insert(layer, renew(due.clone(), kept));
        }
        let list = lists.get(&layer);
        list.expect("lists are made before they are kept").clone()
    }
}
