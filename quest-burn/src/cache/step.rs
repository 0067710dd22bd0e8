use core::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData, assert_shape};

#[cfg(feature = "cube")]
use super::RecordedLists;
use super::{Entropies, PolicyState, PolicyStates, Sequences};

/// Whether the tokens of a [`Step`] are part of a prompt or newly decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Prompt tokens: attention is dense and causal.
    Prefill,
    /// One token per sequence: a policy chooses the pages that it attends to.
    Decode,
}

/// One forward pass through the layers: how many tokens each sequence gains and where they go.
///
/// Made by [`PagedKvCache`](super::PagedKvCache) when it takes the pages, and passed to every
/// layer. What the operations need is here twice: on the host, and on the device, where kernels
/// read it (so that a captured step can be replayed at any position). In a step that is captured
/// ([`crate::decode`]), the host's lengths are those of the recording, and the pages include those
/// that are reserved for coming tokens.
#[derive(Clone, Debug)]
pub struct Step {
    phase: Phase,
    page_size: usize,
    starts: Vec<usize>,
    lengths: Vec<usize>,
    pages: Vec<Vec<u32>>,
    /// Places of the new tokens in the cache.
    positions: Tensor<2, Int>,
    /// Positions in the text, where they are others.
    text_positions: Option<Tensor<2, Int>>,
    sequences: Sequences,
    /// What policies have noted in each layer, for later layers of this pass.
    notes: Arc<Mutex<PolicyStates>>,
    entropies: Entropies,
    #[cfg(feature = "cube")]
    recorded_lists: Option<RecordedLists>,
}

impl Step {
    pub(super) fn new(
        phase: Phase,
        page_size: usize,
        starts: Vec<usize>,
        lengths: Vec<usize>,
        pages: Vec<Vec<u32>>,
        page_table: Tensor<2, Int>,
    ) -> Self {
        let device = page_table.device();
        let longest = starts.iter().zip(&lengths).map(|(s, l)| l - s).max();
        let longest = longest.unwrap_or(0);
        let positions = starts
            .iter()
            .flat_map(|&start| (start..start + longest).map(|p| p as i32))
            .collect::<Vec<_>>();
        let positions = TensorData::new(positions, [starts.len(), longest]);
        Self {
            phase,
            page_size,
            positions: Tensor::from_data(positions, &device),
            text_positions: None,
            sequences: Sequences {
                page_table,
                starts: counts(&starts, &device),
                lengths: counts(&lengths, &device),
            },
            starts,
            lengths,
            pages,
            notes: Arc::default(),
            entropies: Entropies::default(),
            #[cfg(feature = "cube")]
            recorded_lists: None,
        }
    }

    /// The same step for some of its sequences only, for operations that read: the others count as
    /// gaining no token.
    pub(crate) fn only(&self, is_included: impl Fn(usize) -> bool) -> Self {
        let mut step = self.clone();
        for (sequence, start) in step.starts.iter_mut().enumerate() {
            if !is_included(sequence) {
                *start = self.lengths[sequence];
            }
        }
        step
    }

    /// A pass of every sequence over `positions`, `[batch, tokens]`, that move on on the device.
    #[cfg(feature = "cube")]
    pub(super) fn captured(
        phase: Phase,
        page_size: usize,
        positions: Tensor<2, Int>,
        starts: Vec<usize>,
        pages: Vec<Vec<u32>>,
        sequences: Sequences,
    ) -> Self {
        let [_, tokens] = positions.dims();
        Self {
            phase,
            page_size,
            lengths: starts.iter().map(|start| start + tokens).collect(),
            starts,
            pages,
            positions,
            text_positions: None,
            sequences,
            notes: Arc::default(),
            entropies: Entropies::default(),
            #[cfg(feature = "cube")]
            recorded_lists: None,
        }
    }

    /// The same step over tokens that are elsewhere in the text than in the cache, as those between them are not
    /// there: queries and keys are rotated to these positions.
    ///
    /// # Shapes
    ///
    /// - positions: `[batch, max_new_tokens]`
    ///
    /// # Panics
    ///
    /// When the shape does not fit the step.
    pub fn with_positions(mut self, positions: Tensor<2, Int>) -> Self {
        let (batch, tokens) = (self.batch(), self.max_new_tokens());
        assert_shape!(positions, [batch, tokens]);
        self.text_positions = Some(positions);
        self
    }

    /// The same recorded step, in which policies keep lists from one replay to the next.
    #[cfg(feature = "cube")]
    pub(crate) fn with_recorded_lists(self, lists: RecordedLists) -> Self {
        Self {
            recorded_lists: Some(lists),
            ..self
        }
    }

    /// Where the lists of a recorded step are kept.
    #[cfg(feature = "cube")]
    pub(crate) fn recorded_lists(&self) -> Option<&RecordedLists> {
        self.recorded_lists.as_ref()
    }

    pub(super) fn with_entropies(self, entropies: Entropies) -> Self {
        Self { entropies, ..self }
    }

    /// What a policy has noted in a layer of this pass.
    pub(crate) fn noted<T: PolicyState + Clone>(&self, layer: usize) -> Option<T> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.get::<T>(layer).cloned()
    }

    /// Notes something in a layer for later layers of this pass.
    pub(crate) fn note<T: PolicyState>(&self, layer: usize, note: T) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.set(layer, note);
    }

    /// How uncertain the model was after the tokens of a sequence at some positions: the entropies, in nats,
    /// that were [noted](super::PagedKvCache::note_entropy) before this pass, in order. Of a token after which
    /// none was noted there is none.
    pub fn entropies(&self, sequence: usize, positions: Range<usize>) -> Vec<f32> {
        self.entropies.after(sequence, positions)
    }

    /// Whether this step prefills or decodes.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Sequences of the batch.
    pub fn batch(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens per page.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Tokens that each sequence held before this step.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Tokens that each sequence holds after this step.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Tokens that a sequence gains.
    pub fn new_tokens(&self, sequence: usize) -> usize {
        self.lengths[sequence] - self.starts[sequence]
    }

    /// Most tokens that a sequence gains: the token axis of this step's inputs.
    pub fn max_new_tokens(&self) -> usize {
        self.positions.dims()[1]
    }

    /// Pool pages of a sequence, in order.
    pub fn pages(&self, sequence: usize) -> &[u32] {
        &self.pages[sequence]
    }

    /// Most pages that a sequence holds.
    pub fn max_pages(&self) -> usize {
        self.pages.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Position of each new token in its text, `[batch, max_new_tokens]`: its place in the cache, unless the step
    /// was told [others](Self::with_positions).
    ///
    /// Where a sequence gains fewer tokens than the longest, the rest are positions of padding.
    pub fn positions(&self) -> &Tensor<2, Int> {
        self.text_positions.as_ref().unwrap_or(&self.positions)
    }

    /// Where the tokens are, on the device.
    pub fn sequences(&self) -> &Sequences {
        &self.sequences
    }

    /// The page table, `[batch, max_pages]`; 0 where a sequence holds no page.
    pub fn device_page_table(&self) -> &Tensor<2, Int> {
        &self.sequences.page_table
    }

    /// [`starts`](Self::starts) on the device, `[batch]`.
    pub fn device_starts(&self) -> &Tensor<1, Int> {
        &self.sequences.starts
    }

    /// [`lengths`](Self::lengths) on the device, `[batch]`.
    pub fn device_lengths(&self) -> &Tensor<1, Int> {
        &self.sequences.lengths
    }
}

fn counts(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values = values.iter().map(|&v| v as i32).collect::<Vec<_>>();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}
