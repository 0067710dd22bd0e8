use std::{cell::RefCell, rc::Rc};

use burn::tensor::{Device, ExecutionError, Tensor, capture};

use super::{
    DecodeModel, captured::device_of, device_ints::DeviceInts, row_choices::RowChoices,
    step_graphs::StepGraph,
};
use crate::cache::{AssignedPages, PagedKvCache, PoolId, Sequences, page_table_entries};

/// A recorded step of a batch whose sequences the host names before each replay.
pub(super) struct CapturedBatch<'a> {
    /// Dropped before the tensors that it reads and writes.
    graph: StepGraph<'a>,
    work: Rc<RefCell<Work<'a>>>,
    /// The memory that it writes keys and values to.
    pools: Vec<PoolId>,
}

struct Work<'a> {
    model: Box<dyn DecodeModel + 'a>,
    /// Only while the step is recorded.
    cache: Option<PagedKvCache>,
    rows: Rows,
    choices: RowChoices,
}

/// What the host writes before each replay.
struct Rows {
    max_pages: usize,
    /// The token that each sequence is fed, `[batch]`.
    tokens: DeviceInts,
    /// Tokens before the step and after it, `[batch]`.
    starts: DeviceInts,
    lengths: DeviceInts,
    /// Which rows have a sequence, `[batch]`. The others have no token: they append none and attend to none.
    active: DeviceInts,
    /// `[batch * max_pages]`
    page_table: DeviceInts,
}

impl Rows {
    /// Rows without sequences.
    fn new(batch: usize, max_pages: usize, device: &Device) -> Self {
        let zeros = |n: usize| DeviceInts::new(vec![0; n], device);
        Self {
            max_pages,
            tokens: zeros(batch),
            starts: zeros(batch),
            lengths: zeros(batch),
            active: zeros(batch),
            page_table: zeros(batch * max_pages),
        }
    }

    fn sequences(&self) -> Sequences {
        let starts = self.starts.tensor();
        let [batch] = starts.dims();
        Sequences {
            page_table: self.page_table.tensor().reshape([batch, self.max_pages]),
            starts,
            lengths: self.lengths.tensor(),
        }
    }

    fn write(
        &mut self,
        batch: usize,
        sequences: &[AssignedPages<'_>],
        tokens: &[u32],
        page_size: usize,
    ) {
        let padded = |values: &mut dyn Iterator<Item = i32>| {
            let mut values = values.collect::<Vec<_>>();
            values.resize(batch, 0);
            values
        };
        let counted = || sequences.iter();
        self.tokens
            .write(padded(&mut tokens.iter().map(|&id| id as i32)));
        self.starts
            .write(padded(&mut counted().map(|s| s.length as i32)));
        self.lengths
            .write(padded(&mut counted().map(|s| s.end() as i32)));
        self.active.write(padded(&mut counted().map(|_| 1)));
        // A sequence that takes a page has the whole table written: 4 bytes for each row and page, 8 KiB for 32 sequences
        // of 1024 tokens and 1 MiB for those of 128K in pages of 16. Less would take a kernel that writes single entries.
        let pages = counted().map(|sequence| sequence.held(page_size));
        self.page_table
            .write(page_table_entries(pages, batch, self.max_pages));
    }
}

impl Work<'_> {
    fn step(&mut self) -> Tensor<2> {
        let cache = self.cache.as_mut().expect("it is lent while a step runs");
        let step = cache.captured_assigned_step(self.rows.sequences());
        let tokens = self.rows.tokens.tensor().unsqueeze_dim(1);
        let logits = self.model.logits(tokens, cache, &step);
        // What the host writes in place may be held by nothing else.
        drop(step);
        self.choices
            .choose(logits.clone(), self.rows.active.tensor());
        logits
    }
}

/// A cache that is lent to a recording, and given back however that ends.
struct Lent<'c, 'a> {
    work: &'c RefCell<Work<'a>>,
    cache: &'c mut PagedKvCache,
}

impl<'c, 'a> Lent<'c, 'a> {
    fn new(work: &'c RefCell<Work<'a>>, cache: &'c mut PagedKvCache) -> Self {
        work.borrow_mut().cache = Some(cache.take());
        Self { work, cache }
    }
}

impl Drop for Lent<'_, '_> {
    fn drop(&mut self) {
        // A panic of the step has let go of the work before it comes here.
        if let Ok(mut work) = self.work.try_borrow_mut()
            && let Some(cache) = work.cache.take()
        {
            *self.cache = cache;
        }
    }
}

impl<'a> CapturedBatch<'a> {
    /// Records the step while no row has a sequence, so that it may run any number of times and leaves nothing
    /// behind. None where the device records nothing.
    pub(super) fn record(
        model: Box<dyn DecodeModel + 'a>,
        cache: &mut PagedKvCache,
        batch: usize,
        max_pages: usize,
    ) -> Option<Self> {
        let device = device_of(cache);
        let pools = cache.pool_ids();
        let work = Rc::new(RefCell::new(Work {
            model,
            cache: None,
            rows: Rows::new(batch, max_pages, &device),
            choices: RowChoices::new(batch, &device),
        }));
        let recorded = Rc::clone(&work);
        let step: Box<dyn FnMut() -> Tensor<2> + 'a> =
            Box::new(move || recorded.borrow_mut().step());
        let graph = {
            let _lent = Lent::new(&work, cache);
            capture(&device, step)
        };
        graph.is_hardware().then_some(Self { graph, work, pools })
    }

    /// Whether the step is one of this cache, with the memory that it has.
    pub(super) fn is_of(&self, cache: &PagedKvCache) -> bool {
        self.pools == cache.pool_ids()
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.work.borrow().model.vocab_size()
    }

    /// Queues the step of these sequences, no more than rows and pages that were recorded. The cache is the one
    /// that the step [is of](Self::is_of).
    pub(super) fn replay(
        &mut self,
        cache: &mut PagedKvCache,
        batch: usize,
        sequences: &[AssignedPages<'_>],
        tokens: &[u32],
    ) {
        debug_assert!(self.is_of(cache), "the cache is checked before");
        let work = &mut *self.work.borrow_mut();
        work.rows.write(batch, sequences, tokens, cache.page_size());
        // SAFETY: what the step reads and writes is in `work`, whose tensors are neither given away nor
        // replaced while the graph exists, in the output, which the graph holds, in the model, which `work`
        // owns, and in the pools of the cache. The cache is held by the caller, has the memory that was
        // recorded (`is_of`), and is borrowed mutably until the replay is queued; what is done to it
        // afterwards is queued behind. `Rc` keeps all of it on this thread, and so on the stream of the
        // recording.
        unsafe { self.graph.replay() };
    }

    /// Logits of all rows, which the next replay overwrites.
    pub(super) fn logits(&self) -> Tensor<2> {
        self.graph.output().clone()
    }

    pub(super) fn most_probable(&self, n: usize) -> Result<Vec<Option<u32>>, ExecutionError> {
        self.work.borrow().choices.read(n)
    }
}
