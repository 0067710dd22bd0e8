use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use crate::Stats;

/// What the handles of an engine and its thread share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stats: Mutex<Stats>,
    /// Requests that were taken on and have not ended.
    there: AtomicUsize,
    state: AtomicU8,
}

/// Whether requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Running = 0,
    ShuttingDown = 1,
    Ended = 2,
}

impl Shared {
    /// Counts a request in, unless there are as many as `most`.
    pub(crate) fn enter(&self, most: usize) -> bool {
        let count = |there| (there < most).then_some(there + 1);
        let there = &self.there;
        there
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, count)
            .is_ok()
    }

    /// Counts a request out.
    pub(crate) fn leave(&self) {
        self.there.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn publish(&self, stats: Stats) {
        *self.locked() = stats;
    }

    pub(crate) fn stats(&self) -> Stats {
        let stats = *self.locked();
        let there = self.there.load(Ordering::Acquire);
        Stats {
            waiting: there.saturating_sub(stats.running),
            ..stats
        }
    }

    fn locked(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// States only go forwards.
    pub(crate) fn set(&self, state: State) {
        self.state.fetch_max(state as u8, Ordering::AcqRel);
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Running,
            1 => State::ShuttingDown,
            _ => State::Ended,
        }
    }
}
