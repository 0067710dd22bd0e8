//! The queries that score pages for all new tokens of a pass.

use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::cache::Step;

/// Queries that read a digest together, as those of a group of query heads do; what fits into the registers of
/// a kernel.
const TOGETHER: usize = 8;

/// Which queries of each sequence score the pages of its past; the same in every layer of a pass.
///
/// Some queries of a sequence are taken for more query heads of their KV head, so that they read its digests
/// once; the others for sequences of their own, which share pages.
#[derive(Clone, Debug)]
pub(super) struct QueryRows {
    /// Places of the queries among the new tokens, `[rows]` for each sequence.
    places: Vec<Tensor<1, Int>>,
    /// Pages that a sequence of `step` does not have, `[batch, 1, max_pages]`; none where each has all.
    missing: Option<Tensor<3, Bool>>,
    /// Queries that are taken for heads.
    folded: usize,
    /// Each sequence as often as it has queries that are not, with the pages that they score.
    step: Step,
    /// The same once.
    past: Step,
}

impl QueryRows {
    /// `rows` queries of each sequence of a step, of KV heads with `group` query heads. Made in the first layer
    /// that asks, for all that follow.
    pub(super) fn of(step: &Step, rows: usize, group: usize) -> Self {
        const FIRST: usize = 0;
        let fits = |n: &usize| rows.is_multiple_of(*n) && n * group <= TOGETHER;
        let folded = (1..=TOGETHER).rev().find(fits).unwrap_or(1);
        if let Some(noted) = step.noted::<Self>(FIRST)
            && (noted.rows(), noted.folded) == (rows, folded)
        {
            return noted;
        }
        let device = step.device_page_table().device();
        let places = (0..step.batch()).map(|sequence| {
            let places = places(step.new_tokens(sequence), rows).into_iter();
            let places = places.map(|place| place as i32).collect::<Vec<_>>();
            Tensor::from_data(TensorData::new(places, [rows]), &device)
        });
        let queries = step.past(rows / folded);
        let made = Self {
            places: places.collect(),
            missing: missing(&queries),
            folded,
            step: queries,
            past: step.past(1),
        };
        step.note(FIRST, made.clone());
        made
    }

    /// Queries of a sequence.
    fn rows(&self) -> usize {
        self.folded * self.step.batch() / self.past.batch()
    }

    /// The sequences of [`take`](Self::take).
    pub(super) fn step(&self) -> &Step {
        &self.step
    }

    /// The sequences of [`merge`](Self::merge).
    pub(super) fn past(&self) -> &Step {
        &self.past
    }

    /// The queries of all sequences, `[batch, n_heads, tokens, head_dim]` ->
    /// `[batch * rows / folded, n_kv_heads * folded * group, head_dim]`
    pub(super) fn take(&self, query: &Tensor<4>, n_kv_heads: usize) -> Tensor<3> {
        let [_, n_heads, _, head_dim] = query.dims();
        let (folded, group) = (self.folded, n_heads / n_kv_heads);
        let rest = self.rows() / folded;
        let taken = self.places.iter().enumerate().map(|(sequence, places)| {
            let query = query.clone().slice([sequence..sequence + 1]);
            let query: Tensor<3> = query.select(2, places.clone()).squeeze_dim(0);
            query
                .reshape([n_kv_heads, group, rest, folded, head_dim])
                .permute([2, 0, 3, 1, 4])
                .reshape([rest, n_kv_heads * folded * group, head_dim])
        });
        Tensor::cat(taken.collect(), 0)
    }

    /// What pages are worth to the KV heads: their least distance to the highest score of a query.
    ///
    /// # Shapes
    ///
    /// - scores: `[batch * rows / folded, n_kv_heads * folded * group, max_pages]`, of [`take`](Self::take)
    /// - output: `[batch, n_kv_heads, max_pages]`
    pub(super) fn merge(&self, scores: Tensor<3>, n_kv_heads: usize) -> Tensor<3> {
        let [queries, n_heads, n_pages] = scores.dims();
        let batch = self.past.batch();
        let shape = scores.dims();
        let scores = match self.missing.clone() {
            Some(missing) => scores.mask_fill(missing.expand(shape), f32::MIN),
            None => scores,
        };
        let distances = scores.clone() - scores.max_dim(2);
        let of_heads = distances
            .reshape([batch, queries / batch, n_heads * n_pages])
            .max_dim(1);
        of_heads
            .reshape([batch * n_kv_heads, n_heads / n_kv_heads, n_pages])
            .max_dim(1)
            .reshape([batch, n_kv_heads, n_pages])
    }
}

/// Pages of the page table that sequences do not have, whose scores are undefined.
fn missing(step: &Step) -> Option<Tensor<3, Bool>> {
    let max_pages = step.max_pages();
    let counts = (0..step.batch()).map(|query| step.pages(query).len());
    if counts.clone().all(|n| n == max_pages) {
        return None;
    }
    let is_missing = counts.flat_map(|n| (0..max_pages).map(move |page| page >= n));
    let is_missing = TensorData::new(is_missing.collect::<Vec<_>>(), [step.batch(), 1, max_pages]);
    Some(Tensor::from_data(
        is_missing,
        &step.device_page_table().device(),
    ))
}

/// Places of `rows` of `tokens` tokens, evenly spread, the last one among them; some repeat where there are
/// fewer tokens.
fn places(tokens: usize, rows: usize) -> Vec<usize> {
    let place = |row: usize| ((row + 1) * tokens).div_ceil(rows).saturating_sub(1);
    (0..rows).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_evenly_spread_and_the_last_token_has_one() {
        assert_eq!(places(32, 4), [7, 15, 23, 31]);
        assert_eq!(places(10, 4), [2, 4, 7, 9]);
        assert_eq!(places(2, 4), [0, 0, 1, 1]);
        assert_eq!(places(1, 3), [0, 0, 0]);
        assert_eq!(places(0, 2), [0, 0]);
    }
}
