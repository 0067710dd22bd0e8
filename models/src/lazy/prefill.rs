use burn::tensor::Tensor;
use quest_burn::{
    cache::PagedKvCache,
    policy::{DensePolicy, PagePolicy},
};

use super::{
    LaterStages,
    rows::{Layers, Rows},
    worth::{Listening, least},
};
use crate::{
    generation::{ChunkDone, GenerateError, check_ids, rows},
    model::LanguageModel,
};

impl LaterStages {
    /// Appends a prompt, whose tokens leave on their way, and gives the hidden state after its last token, `[1, 1,
    /// d_model]`. A stage is through with the whole prompt, `chunk` tokens at a time, before the next one begins.
    ///
    /// Tokens that were there before are not asked to leave.
    pub(crate) fn prefill(
        &mut self,
        model: &dyn LanguageModel,
        first: &mut PagedKvCache,
        ids: &[u32],
        chunk: usize,
        done: Option<ChunkDone<'_>>,
    ) -> Result<Tensor<3>, GenerateError> {
        if chunk == 0 {
            return Err(GenerateError::Chunk);
        }
        check_ids(ids, model.vocab_size())?;
        if ids.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        let start = first.lengths()[0];
        let mut work = Work::new(model, self.work(ids.len()), ids.len(), done);
        let mut at_work = Rows {
            positions: (start..start + ids.len()).collect(),
            hidden: model.embedded(rows(vec![ids.to_vec()], ids.len(), model)),
        };
        for index in 0..=self.stages.len() {
            let leaving = self.leaving(index, &at_work);
            let mut layers = match index.checked_sub(1) {
                None => Layers {
                    model,
                    layers: self.first(),
                    cache: &mut *first,
                },
                Some(index) => {
                    let stage = &mut self.stages[index];
                    stage.make_room(at_work.positions.len());
                    stage.positions.extend(&at_work.positions);
                    stage.computed_for.extend(&at_work.positions);
                    stage.layers(model)
                }
            };
            let n_layers = layers.layers.len();
            let last_layer = layers.layers.end - 1;
            let listening = Listening::new(&DensePolicy, last_layer, self.config.queries);
            let last: &dyn PagePolicy = match leaving {
                0 => &DensePolicy,
                _ => &listening,
            };
            at_work = layers.prefill(at_work, chunk, [&DensePolicy, last], |rows| {
                work.done(rows * n_layers)
            })?;
            if leaving > 0 {
                at_work = self.leave(index, at_work, listening.worth()?, leaving);
            }
        }
        let n = at_work.positions.len();
        Ok(model.normed(at_work.hidden.slice_dim(1, n - 1..n)))
    }

    /// Tokens of a prompt that leave after a stage, counted from the first one.
    fn leaving(&self, stage: usize, rows: &Rows) -> usize {
        let Some(next) = self.stages.get(stage) else {
            return 0;
        };
        let n = rows.positions.len();
        next.rate.floor_of(n).min(self.candidates(rows).count())
    }

    /// Places of the tokens that may leave.
    fn candidates<'a>(&self, rows: &'a Rows) -> impl Iterator<Item = usize> + use<'a> {
        let (first, last) = (self.config.keep_first, self.config.keep_last);
        let end = rows.positions.len().saturating_sub(last);
        (0..end).filter(move |&place| rows.positions[place] >= first)
    }

    /// Lets tokens leave, given what all tokens of the stage's cache are worth: the rows that go on.
    fn leave(&mut self, stage: usize, rows: Rows, worth: Vec<f32>, leaving: usize) -> Rows {
        let n = rows.positions.len();
        // The new tokens are the last ones.
        let worth = &worth[worth.len() - n..];
        let candidates = self.candidates(&rows);
        let candidates = candidates.map(|place| (place, worth[place], rows.positions[place]));
        let gone = least(candidates, leaving);
        let kept = (0..n).filter(|place| gone.binary_search(place).is_err());
        let kept = rows.select(&kept.collect::<Vec<_>>());
        if self.config.revival.is_some() {
            self.stages[stage].left.add(rows.select(&gone));
        }
        kept
    }

    /// What a prompt of `n` tokens takes: layers that tokens go through.
    fn work(&self, n: usize) -> usize {
        let mut at_work = n;
        let later = self.stages.iter().map(|stage| {
            at_work -= stage.rate.floor_of(at_work);
            at_work * stage.layers.len()
        });
        n * self.first().len() + later.sum::<usize>()
    }
}

/// How far a prompt is, told as tokens of which all work is done.
struct Work<'a, 'p> {
    model: &'a dyn LanguageModel,
    done: usize,
    total: usize,
    tokens: usize,
    on_chunk: Option<ChunkDone<'p>>,
}

impl<'a, 'p> Work<'a, 'p> {
    fn new(
        model: &'a dyn LanguageModel,
        total: usize,
        tokens: usize,
        on_chunk: Option<ChunkDone<'p>>,
    ) -> Self {
        Self {
            model,
            done: 0,
            total,
            tokens,
            on_chunk,
        }
    }

    /// The device is waited for, as a GPU takes work faster than it does it, except at the end.
    fn done(&mut self, work: usize) -> Result<(), GenerateError> {
        self.done += work;
        if let Some(on_chunk) = &mut self.on_chunk {
            // More is done than was counted on where tokens have to stay.
            let done = self.done.min(self.total);
            if done < self.total {
                self.model.device().sync()?;
            }
            on_chunk((done as u128 * self.tokens as u128 / self.total as u128) as usize)?;
        }
        Ok(())
    }
}
