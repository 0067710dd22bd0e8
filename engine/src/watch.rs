use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;
use quest_burn::{
    cache::{LayerCache, Step},
    policy::{PagePolicy, Pages},
};

use crate::LayerRead;

/// A policy whose choices are recorded. Each layer waits for the device.
#[derive(Debug)]
pub(crate) struct WatchedPolicy {
    policy: Arc<dyn PagePolicy>,
    /// For each layer that chose, what each sequence of the batch reads.
    reads: Mutex<Vec<Vec<LayerRead>>>,
}

impl WatchedPolicy {
    pub(crate) fn new(policy: Arc<dyn PagePolicy>) -> Self {
        Self {
            policy,
            reads: Mutex::default(),
        }
    }

    /// What each sequence of the batch read in the layers of a step.
    pub(crate) fn into_reads(self, batch: usize) -> Vec<Vec<LayerRead>> {
        let mut of_sequence = vec![Vec::new(); batch];
        let layers = self.reads.into_inner();
        for layer in layers.unwrap_or_else(PoisonError::into_inner) {
            for (reads, read) in of_sequence.iter_mut().zip(layer) {
                reads.push(read);
            }
        }
        of_sequence
    }
}

impl PagePolicy for WatchedPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, scale: f64) -> Pages {
        let pages = self.policy.select(query, cache, step, scale);
        let reads = read(&pages, step.batch()).into_iter();
        let reads = reads.map(|pages| LayerRead {
            layer: cache.index(),
            pages,
        });
        let recorded = self.reads.lock();
        let mut recorded = recorded.unwrap_or_else(PoisonError::into_inner);
        recorded.push(reads.collect());
        pages
    }
}

/// Pages that some head of each sequence reads; none where all are.
fn read(pages: &Pages, batch: usize) -> Vec<Option<Vec<u32>>> {
    let Pages::Listed { ids, counts } = pages else {
        return vec![None; batch];
    };
    let [_, heads, k] = ids.dims();
    let ids = ids.clone().into_data().convert::<i32>();
    let ids = ids.try_to_vec::<i32>().expect("converted to i32");
    let of_sequence = ids.chunks(heads * k).zip(counts);
    of_sequence
        .map(|(ids, &count)| {
            let listed = ids.chunks(k).flat_map(|list| &list[..count]);
            let mut pages = listed.map(|&id| id as u32).collect::<Vec<_>>();
            pages.sort_unstable();
            pages.dedup();
            Some(pages)
        })
        .collect()
}
