//! Passes through the model. A step decodes the sequences of each policy in one pass, then feeds its prompts,
//! one by one: rows of unequal lengths would be padded to the longest.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::{
    cache::Phase,
    ops,
    policy::{DensePolicy, PagePolicy},
};

use rayon::prelude::*;

use super::{Outcome, Worker, WorkerError, message, plan::Work};
use crate::{
    FinishReason, LayerRead, Token,
    choose::Chooser,
    sequence::{Due, Sequence},
    watch::WatchedPolicy,
};

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
        let (policy, watch) = (first.policy, first.watch);
        // Choices are recorded on the host, layer by layer, so that a step of those who watch is no replay.
        let is_recorded = !watch && self.decode_recorded(policy, indices, outcomes)?;
        if is_recorded {
            return Ok(());
        }
        self.stats.plain_steps += 1;
        let policy = self.policies.get(policy).clone();
        let (hidden, reads) = match watch {
            false => (self.pass(Phase::Decode, indices, 1, &*policy)?, None),
            true => {
                let watched = WatchedPolicy::new(Arc::clone(&policy));
                let hidden = self.pass(Phase::Decode, indices, 1, &watched)?;
                (hidden, Some(watched.into_reads(indices.len())))
            }
        };
        let level = self.advance_decoded(indices);
        if level.is_empty() {
            return Ok(());
        }
        let reads = match reads {
            Some(mut reads) => level
                .iter()
                .map(|&i| std::mem::take(&mut reads[i]))
                .collect(),
            None => vec![Vec::new(); level.len()],
        };
        let logits = self.logits(rows_of(hidden, &level));
        let level = level.into_iter().map(|place| indices[place]);
        self.choose(&level.collect::<Vec<_>>(), logits, None, reads, outcomes)
    }

    /// The same by a recording; says whether there is one.
    fn decode_recorded(
        &mut self,
        policy: usize,
        indices: &[usize],
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Result<bool, WorkerError> {
        let wants_ids = |&index: &usize| self.running[index].chooser.takes_most_probable();
        let wants_ids = indices.iter().all(wants_ids);
        let Some(graph) = self.replay(policy, indices) else {
            return Ok(false);
        };
        let logits = graph.logits().expect("a step was taken");
        let ids = match wants_ids {
            true => Some(graph.most_probable()?),
            false => None,
        };
        let level = self.advance_decoded(indices);
        if level.is_empty() {
            return Ok(true);
        }
        let ids = ids.and_then(|ids| level.iter().map(|&place| ids[place]).collect());
        let logits = rows_of(logits, &level);
        let reads = vec![Vec::new(); level.len()];
        let level = level.into_iter().map(|place| indices[place]);
        self.choose(&level.collect::<Vec<_>>(), logits, ids, reads, outcomes)?;
        Ok(true)
    }

    /// Counts decoded tokens in; gives the places of those sequences that a token is to be chosen for.
    fn advance_decoded(&mut self, indices: &[usize]) -> Vec<usize> {
        for &index in indices {
            self.advance(index, Due::Decode, 1);
        }
        let level = |&place: &usize| self.running[indices[place]].is_level();
        (0..indices.len()).filter(level).collect()
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
                let logits = self.logits(hidden.slice_dim(1, tokens - 1..tokens));
                self.choose(&[index], logits, None, vec![Vec::new()], outcomes)?;
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

    /// Logits after hidden states, `[sequences, 1, d_model]`.
    fn logits(&self, hidden: Tensor<3>) -> Tensor<2> {
        self.model.model().logits(hidden).squeeze_dim(1)
    }

    /// Chooses the tokens that follow logits, `[sequences, vocab_size]`; the most probable ones may be known.
    fn choose(
        &mut self,
        indices: &[usize],
        logits: Tensor<2>,
        ids: Option<Vec<u32>>,
        reads: Vec<Vec<LayerRead>>,
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Result<(), WorkerError> {
        let mut chooses = indices.iter().map(|&index| &self.running[index].chooser);
        let ids = match chooses.all(Chooser::takes_most_probable) {
            true if ids.is_none() => most_probable(&logits)?,
            true => ids,
            false => None,
        };
        let chosen = match ids {
            Some(ids) => self.push(indices, ids, reads),
            None => self.sample(indices, logits, reads)?,
        };
        for (index, chosen) in chosen {
            match chosen {
                Ok(end) => {
                    self.stats.new_tokens += 1;
                    outcomes.extend(end.map(|reason| (index, Ok(reason))));
                }
                Err(error) => outcomes.push((index, Err(error))),
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        indices: &[usize],
        ids: Vec<u32>,
        reads: Vec<Vec<LayerRead>>,
    ) -> Vec<Chosen> {
        let tokens = ids.into_iter().zip(reads).map(|(id, reads)| Token {
            id,
            logprob: None,
            top: Vec::new(),
            reads,
        });
        let tokens = indices.iter().zip(tokens);
        tokens
            .map(|(&index, token)| (index, Ok(self.running[index].push(token))))
            .collect()
    }

    /// Reads the logits, and lets each sequence choose for itself, on all cores where that is much.
    fn sample(
        &mut self,
        indices: &[usize],
        logits: Tensor<2>,
        reads: Vec<Vec<LayerRead>>,
    ) -> Result<Vec<Chosen>, WorkerError> {
        let logits = logits.try_into_data()?.convert::<f32>().try_to_vec();
        let mut logits = logits.expect("converted to f32 one line above");
        let mut masks = indices.iter().map(|&index| &self.running[index].chooser);
        // Less is done sooner than other threads are awake.
        let is_much = logits.len() > 1 << 16 || masks.any(Chooser::has_mask);
        let is_much = indices.len() > 1 && is_much;
        let rows = logits.chunks_mut(self.model.model().vocab_size());
        // Places are ascending.
        let sequences = self.running.iter_mut().enumerate();
        let sequences = sequences.filter(|(index, _)| indices.binary_search(index).is_ok());
        let work = sequences.zip(rows).zip(reads).collect::<Vec<_>>();
        let choose = |(((index, sequence), logits), reads): Row<'_>| {
            let choose = AssertUnwindSafe(|| sequence.choose(logits, reads));
            // A grammar is somebody else's code, and the other sequences have nothing to do with it.
            let chosen = catch_unwind(choose);
            let chosen = chosen.unwrap_or_else(|panic| Err(message(&*panic)));
            (index, chosen)
        };
        Ok(match is_much {
            true => work.into_par_iter().map(choose).collect(),
            false => work.into_iter().map(choose).collect(),
        })
    }
}

/// A sequence with its place, its logits and what was read for them.
type Row<'a> = (((usize, &'a mut Sequence), &'a mut [f32]), Vec<LayerRead>);

/// A sequence, and why it has ended, if it has.
type Chosen = (usize, Result<Option<FinishReason>, String>);

/// Some rows of a tensor, in ascending order.
fn rows_of<const D: usize>(rows: Tensor<D>, places: &[usize]) -> Tensor<D> {
    if places.len() == rows.dims()[0] {
        return rows;
    }
    let places = places.iter().map(|&place| place as i32).collect::<Vec<_>>();
    let places = Tensor::from_data(&places[..], &rows.device());
    rows.select(0, places)
}

/// The tokens of the highest logits, where the device chooses them and each row has one.
fn most_probable(logits: &Tensor<2>) -> Result<Option<Vec<u32>>, WorkerError> {
    let Some(ids) = ops::most_probable(logits.clone()) else {
        return Ok(None);
    };
    let ids = ids.try_into_data()?.convert::<i32>().try_to_vec::<i32>();
    let ids = ids.expect("converted to i32 one line above").into_iter();
    // The sampler says what is wrong with a row that has none.
    Ok(ids.map(|id| u32::try_from(id).ok()).collect())
}
