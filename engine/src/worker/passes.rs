//! Passes through the model. A step decodes the sequences of each policy in one pass, then feeds its prompts,
//! one by one: rows of unequal lengths would be padded to the longest.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::{
    cache::Phase,
    policy::{DensePolicy, PagePolicy},
};

use super::{Outcome, Worker, WorkerError, plan::Work};
use crate::{LayerRead, sequence::Due, watch::WatchedPolicy};

impl Worker {
    /// Feeds a token of each sequence that decodes, those of a policy together.
    pub(super) fn decode(
        &mut self,
        work: &[Work],
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Result<(), WorkerError> {
        let decodes = work.iter().filter(|work| work.due == Due::Decode);
        let mut decodes = decodes.map(|work| work.index).collect::<Vec<_>>();
        let group = |&index: &usize| (self.running[index].policy, self.running[index].watch);
        decodes.sort_by_key(group);
        let groups = decodes.chunk_by(|a, b| group(a) == group(b));
        for indices in groups.map(<[usize]>::to_vec).collect::<Vec<_>>() {
            self.decode_group(&indices, outcomes)?;
        }
        Ok(())
    }

    fn decode_group(
        &mut self,
        indices: &[usize],
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Result<(), WorkerError> {
        let first = &self.running[indices[0]];
        let policy = self.policies.get(first.policy).clone();
        let (hidden, reads) = match first.watch {
            false => (self.pass(Phase::Decode, indices, 1, &*policy)?, None),
            true => {
                let watched = WatchedPolicy::new(Arc::clone(&policy));
                let hidden = self.pass(Phase::Decode, indices, 1, &watched)?;
                (hidden, Some(watched.into_reads(indices.len())))
            }
        };
        for &index in indices {
            self.advance(index, Due::Decode, 1);
        }
        let mut reads = reads.unwrap_or_else(|| vec![Vec::new(); indices.len()]);
        let mut logits = self.logits(hidden)?;
        let rows = logits.chunks_mut(self.model.model().vocab_size());
        for ((&index, logits), reads) in indices.iter().zip(rows).zip(&mut reads) {
            if self.running[index].is_level() {
                self.choose(index, logits, std::mem::take(reads), outcomes);
            }
        }
        Ok(())
    }

    /// Feeds tokens of prompts.
    pub(super) fn prefill(
        &mut self,
        work: &[Work],
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Result<(), WorkerError> {
        for work in work.iter().filter(|work| work.due != Due::Decode) {
            let (index, tokens) = (work.index, work.tokens);
            let hidden = self.pass(Phase::Prefill, &[index], tokens, &DensePolicy)?;
            self.advance(index, work.due, tokens);
            if self.running[index].is_level() {
                let last = hidden.slice_dim(1, tokens - 1..tokens);
                let mut logits = self.logits(last)?;
                self.choose(index, &mut logits, Vec::new(), outcomes);
            }
        }
        Ok(())
    }

    /// Hidden states of the next `tokens` tokens of sequences, `[sequences, tokens, d_model]`.
    fn pass(
        &mut self,
        phase: Phase,
        indices: &[usize],
        tokens: usize,
        policy: &dyn PagePolicy,
    ) -> Result<Tensor<3>, WorkerError> {
        let sequences = indices.iter().map(|&index| &self.running[index]);
        let assigned = sequences.clone().map(|sequence| sequence.assigned(tokens));
        let step = (self.cache).assigned_step(phase, &assigned.collect::<Vec<_>>())?;
        let ids = sequences.flat_map(|s| &s.ids[s.computed..s.computed + tokens]);
        let ids = ids.map(|&id| id as i32).collect::<Vec<_>>();
        let ids = TensorData::new(ids, [indices.len(), tokens]);
        let ids = Tensor::<2, Int>::from_data(ids, &self.model.device());
        let model = self.model.model();
        Ok(model.hidden(ids, &mut self.cache, &step, policy))
    }

    fn advance(&mut self, index: usize, due: Due, tokens: usize) {
        let page_size = self.cache.page_size();
        self.running[index].advance(due, tokens, &mut self.store, page_size);
    }

    /// Logits after hidden states, on the host.
    fn logits(&self, hidden: Tensor<3>) -> Result<Vec<f32>, WorkerError> {
        let logits = self.model.model().logits(hidden);
        let logits = logits.try_into_data()?.convert::<f32>().try_to_vec();
        Ok(logits.expect("converted to f32 one line above"))
    }

    fn choose(
        &mut self,
        index: usize,
        logits: &mut [f32],
        reads: Vec<LayerRead>,
        outcomes: &mut Vec<(usize, Outcome)>,
    ) {
        match self.running[index].choose(logits, reads) {
            Ok(end) => {
                self.stats.new_tokens += 1;
                outcomes.extend(end.map(|reason| (index, Ok(reason))));
            }
            Err(error) => outcomes.push((index, Err(error))),
        }
    }
}
