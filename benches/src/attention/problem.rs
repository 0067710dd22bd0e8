use burn::tensor::{Int, Tensor};
use quest_burn::{
    PageSharing,
    cache::{PagedKvCache, Step},
    ops,
    policy::{PageSelection, Pages},
};

use super::{Operation, grid::Shape};
use crate::{BenchError, Target, layer, timing::Call};

/// Caches in turn, with a query and a new token for each entry.
pub(super) struct Problem {
    pub shape: Shape,
    /// A layer per cache; all hold the same numbers of tokens.
    pub caches: PagedKvCache,
    pub step: Step,
    pub entries: Vec<Entry>,
}

/// What an operation reads besides a cache.
pub(super) struct Entry {
    pub query: Tensor<3>,
    pub new_keys: Tensor<4>,
    pub new_values: Tensor<4>,
    pub scores: Tensor<3>,
    /// The pages of the present budget.
    pub pages: Option<Pages>,
}

/// What an operation gives.
#[derive(Clone)]
pub(super) enum Computed {
    /// It is in the cache.
    Appended,
    /// Scores or attention.
    Float(Tensor<3>),
    /// Page lists.
    Pages(Tensor<3, Int>),
}

impl Problem {
    pub(super) fn new(
        shape: Shape,
        n_caches: usize,
        n_entries: usize,
        target: &Target,
    ) -> Result<Self, BenchError> {
        let (device, dtype) = (target.device(), shape.dtype);
        let config = shape.cache(n_caches);
        let mut caches = layer::filled_cache(&config, 0, device, dtype)?;
        let held = shape.lengths().into_iter().map(|length| length - 1);
        // This takes the pages. Their content is already there.
        caches.prefill(&held.collect::<Vec<_>>())?;
        let step = caches.decode()?;
        let row = [shape.batch, shape.heads.kv, 1, shape.head_dim];
        let entries = (0..n_entries).map(|index| {
            let query = [shape.batch, shape.heads.query, shape.head_dim];
            let query = layer::normal(query, device, dtype);
            let cache = caches.layer(index % n_caches);
            let scores = ops::page_scores(query.clone(), cache, &step, PageSharing::KvHead);
            Entry {
                query,
                new_keys: layer::normal(row, device, dtype),
                new_values: layer::normal(row, device, dtype),
                scores,
                pages: None,
            }
        });
        let entries = entries.collect();
        device.sync()?;
        Ok(Self {
            shape,
            caches,
            step,
            entries,
        })
    }

    /// Chooses the pages of a budget for every entry.
    pub(super) fn choose(&mut self, budget: usize) {
        let selection = self.selection(budget);
        for index in 0..self.entries.len() {
            let pages = self.top_pages(self.entries[index].scores.clone(), &selection);
            self.entries[index].pages = Some(pages);
        }
    }

    /// The entry of a call: another one in each pass, so that a result tells its pass.
    pub(super) fn entry_of(&self, call: Call, rotation: usize) -> usize {
        (call.input + call.pass) % rotation
    }

    /// The cache that an entry reads.
    pub(super) fn cache_of(&self, entry: usize) -> usize {
        entry % self.caches.n_layers()
    }

    pub(super) fn scale(&self) -> f64 {
        1.0 / (self.shape.head_dim as f64).sqrt()
    }

    /// Computes an operation.
    ///
    /// # Panics
    ///
    /// When attention over chosen pages comes before [`choose`](Self::choose).
    pub(super) fn compute(
        &mut self,
        operation: Operation,
        index: usize,
        budget: usize,
    ) -> Computed {
        let cache = self.cache_of(index);
        let scale = self.scale();
        let selection = self.selection(budget);
        let entry = &self.entries[index];
        match operation {
            Operation::Append => {
                let (keys, values) = (entry.new_keys.clone(), entry.new_values.clone());
                ops::append(self.caches.layer_mut(cache), keys, values, &self.step);
                Computed::Appended
            }
            Operation::PageScores => Computed::Float(self.page_scores(index)),
            Operation::TopPages => {
                let pages = self.top_pages(entry.scores.clone(), &selection);
                let Pages::Listed { ids, .. } = pages else {
                    unreachable!("a selection lists pages");
                };
                Computed::Pages(ids)
            }
            Operation::PagedAttention => {
                let pages = entry.pages.clone().expect("pages were chosen");
                self.attention(index, &pages)
            }
            Operation::DenseAttention => self.attention(index, &Pages::All),
            Operation::ThreeOperations => {
                let scores = self.page_scores(index);
                let pages = self.top_pages(scores, &selection);
                self.attention(index, &pages)
            }
            Operation::TopKAttention => Computed::Float(ops::top_k_attention(
                entry.query.clone(),
                self.caches.layer_mut(cache),
                &self.step,
                &selection,
                PageSharing::KvHead,
                scale,
            )),
        }
    }

    fn page_scores(&self, index: usize) -> Tensor<3> {
        let cache = self.caches.layer(self.cache_of(index));
        let query = self.entries[index].query.clone();
        ops::page_scores(query, cache, &self.step, PageSharing::KvHead)
    }

    fn top_pages(&self, scores: Tensor<3>, selection: &PageSelection) -> Pages {
        ops::top_pages(scores, &self.step, selection)
    }

    fn attention(&mut self, index: usize, pages: &Pages) -> Computed {
        let (cache, scale) = (self.cache_of(index), self.scale());
        let query = self.entries[index].query.clone();
        let cache = self.caches.layer_mut(cache);
        Computed::Float(ops::paged_attention(query, cache, pages, &self.step, scale))
    }

    /// As many pages as the budget has, the newest among them.
    fn selection(&self, budget: usize) -> PageSelection {
        PageSelection {
            k: (budget / self.shape.page_size).min(self.shape.n_pages()),
            sink_pages: 0,
            recent_pages: 1,
        }
    }
}
