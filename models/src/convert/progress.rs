use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use burn::store::burn_pack::{Error, Tensor};

use super::Report;

/// How much of all tensors is written, and whether to go on.
pub(super) struct Progress(Arc<State>);

struct State {
    done: AtomicU64,
    total: u64,
    is_stopped: AtomicBool,
    report: Box<Report>,
}

impl Progress {
    pub(super) fn new(total: u64, report: Box<Report>) -> Self {
        Self(Arc::new(State {
            done: AtomicU64::new(0),
            total,
            is_stopped: AtomicBool::new(false),
            report,
        }))
    }

    /// Whether a report said to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.0.is_stopped.load(Ordering::SeqCst)
    }

    /// Tensors that report when they are read, and are not read any more once that says to stop.
    pub(super) fn watch(&self, tensors: Vec<Tensor>) -> Vec<Tensor> {
        let watched = tensors.into_iter().map(|tensor| {
            let state = Arc::clone(&self.0);
            let (name, dtype, shape) = (tensor.name.clone(), tensor.dtype, tensor.shape.clone());
            let bytes = tensor.byte_len();
            Tensor::deferred(name, dtype, shape, None, bytes, move || {
                state.go_on()?;
                let read = tensor.clone().into_bytes()?;
                state.done.fetch_add(read.len() as u64, Ordering::SeqCst);
                Ok(read)
            })
        });
        watched.collect()
    }
}

impl State {
    fn go_on(&self) -> Result<(), Error> {
        let is_stopped = self.is_stopped.load(Ordering::SeqCst);
        let done = self.done.load(Ordering::SeqCst);
        if is_stopped || (self.report)(done, self.total) == ControlFlow::Break(()) {
            self.is_stopped.store(true, Ordering::SeqCst);
            return Err(Error::IoError("it was stopped".into()));
        }
        Ok(())
    }
}
