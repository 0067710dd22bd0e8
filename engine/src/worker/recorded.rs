//! Decode steps that are recorded and replayed.
//!
//! There is a recording for each policy, each bucket of batch sizes (1, 2, 4, 8, ..), and each room for pages of a
//! sequence. Sequences that come and go within those need none anew.

use std::sync::Arc;

use quest_burn::decode::{BatchGraph, DecodeGraph};
use quest_burn_models::generation::batch_graph;

use super::{
    Worker,
    recordings::{PageBounds, Scope},
};

/// Tokens of a sequence that a recording is good for at least.
const MIN_TOKENS: usize = 256;

impl Worker {
    /// Feeds the newest token of each sequence by a recording; none where the step is to be taken plainly.
    pub(super) fn replay(
        &mut self,
        policy: usize,
        indices: &[usize],
    ) -> Option<&BatchGraph<'static>> {
        if !self.records {
            return None;
        }
        let page_size = self.cache.page_size();
        let sequences = indices.iter().map(|&index| &self.running[index]);
        let pages = sequences
            .clone()
            .map(|s| (s.computed + 1).div_ceil(page_size));
        let scope = Scope {
            policy,
            sequences: indices.len(),
            pages: pages.max().unwrap_or(0),
        };
        let policy = self.policies.get(policy);
        if !policy.is_capturable() {
            return None;
        }
        let (model, cache, stats) = (&self.model, &mut self.cache, &mut self.stats);
        let scope = scope.rounded_up(PageBounds {
            least: MIN_TOKENS.div_ceil(page_size),
            most: (model.context().div_ceil(page_size)).min(cache.config().n_pages),
        });
        let record = |scope: Scope| {
            let (model, policy) = (model.shared_model(), Arc::clone(policy));
            let graph = batch_graph(model, policy, cache, scope.sequences, scope.pages)?;
            stats.recordings += 1;
            Some(graph)
        };
        let graph = self.recordings.recording_for(scope, record)?;
        let assigned = sequences.clone().map(|sequence| sequence.assigned(1));
        let tokens = sequences.map(|sequence| sequence.ids[sequence.computed]);
        let (assigned, tokens) = (assigned.collect::<Vec<_>>(), tokens.collect::<Vec<_>>());
        // What a recording refuses has changed nothing, so that a plain step can follow: the cache may have other
        // memory since, as copying a page may give it, and what no step could be has the error of a plain one.
        let outcome = graph.step(&mut self.cache, &assigned, &tokens);
        let graph = self.recordings.stepped(outcome)?;
        self.stats.recorded_steps += 1;
        Some(graph)
    }

    /// Whether decode steps of this model over this cache are recorded, if their policies allow it.
    pub(super) fn can_record(&self) -> bool {
        self.config.recording
            && self.model.model().is_capturable()
            && DecodeGraph::records(&self.cache)
    }
}
