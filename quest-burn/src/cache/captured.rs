//! What recorded passes need of the cache: pages that are taken before their tokens come, and lengths
//! that move on on the device; or pages and lengths that the host writes there before each replay.

use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{Int, Tensor};

use super::{CacheError, PagedKvCache, Phase, Sequences, Step};

/// Tells the memory of a layer's pool from that of any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolId(u64);

impl PoolId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl PagedKvCache {
    /// Takes the pages for `new_tokens[i]` coming tokens of sequence `i` ahead, or changes nothing.
    pub(crate) fn reserve(&mut self, new_tokens: &[usize]) -> Result<(), CacheError> {
        if self.table.reserve(new_tokens)? {
            self.upload_page_table();
        }
        Ok(())
    }

    /// Frees the pages that were reserved and hold no token.
    pub(crate) fn release_reserved(&mut self) {
        self.table.release_reserved();
    }

    /// Tokens that the pages of a sequence can still take.
    pub(crate) fn room(&self, sequence: usize) -> usize {
        self.table.room(sequence)
    }

    /// Tokens that a sequence can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Counts a token in that a captured step has appended to reserved pages.
    pub(crate) fn advance(&mut self, grown: &[bool]) {
        self.table.advance(grown);
    }

    /// Takes back the newest tokens of a sequence, whose pages stay reserved: recorded steps hold on.
    pub(crate) fn rewind(&mut self, sequence: usize, length: usize) {
        self.table.rewind(sequence, length);
    }

    /// A decode step of every sequence that is recorded now and replayed while there is room in
    /// the pages that are reserved: kernels read where they are from these tensors (`[batch]`).
    pub(crate) fn captured_step(&self, starts: Tensor<1, Int>, lengths: Tensor<1, Int>) -> Step {
        let positions = starts.clone().unsqueeze_dim(1);
        self.captured_pass(Phase::Decode, positions, starts, lengths)
    }

    /// The same of a pass over as many tokens as there are `positions`, `[batch, tokens]`; sequences
    /// gain those of them that are within their `lengths`.
    pub(crate) fn captured_pass(
        &self,
        phase: Phase,
        positions: Tensor<2, Int>,
        starts: Tensor<1, Int>,
        lengths: Tensor<1, Int>,
    ) -> Step {
        Step::captured(
            phase,
            self.config.page_size,
            positions,
            self.table.lengths().to_vec(),
            self.table.pages().to_vec(),
            Sequences {
                page_table: self.device_page_table.clone(),
                starts,
                lengths,
            },
        )
    }

    /// A decode step that is recorded now and replayed for whatever sequences the tensors then tell of, as
    /// [assigned](Self::assigned_step) ones: as many as `starts` and `lengths` (`[batch]`) are long, of up to as
    /// many pages as rows of the page table have entries. Sequences of no token gain none.
    pub(crate) fn captured_assigned_step(&self, sequences: Sequences) -> Step {
        let [batch, max_pages] = sequences.page_table.dims();
        // The host's fields are bounds.
        let longest = max_pages * self.config.page_size;
        Step::captured(
            Phase::Decode,
            self.config.page_size,
            sequences.starts.clone().unsqueeze_dim(1),
            vec![longest - 1; batch],
            vec![vec![0; max_pages]; batch],
            sequences,
        )
    }

    /// The memory of each layer's pool, by which a recording knows its cache.
    pub(crate) fn pool_ids(&self) -> Vec<PoolId> {
        self.layers.iter().map(|layer| layer.pool_id).collect()
    }

    /// The cache itself, and in its place one without layers.
    pub(crate) fn take(&mut self) -> Self {
        let stand_in = Self {
            config: self.config.clone(),
            dtype: self.dtype,
            layers: Vec::new(),
            table: self.table.clone(),
            device_page_table: self.device_page_table.clone(),
            entropies: self.entropies.clone(),
            gaps_allowed: self.gaps_allowed,
            grows: self.grows,
        };
        std::mem::replace(self, stand_in)
    }
}
