//! Ctrl-C stops an answer, not the program.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use signal_hook::{
    consts::SIGINT,
    flag::{register, register_conditional_shutdown},
};

/// The exit code of programs that Ctrl-C ends.
const INTERRUPTED: i32 = 130;

/// Whether Ctrl-C was pressed. Pressed again before that was [taken](Self::take), it ends the program.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    is_pressed: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes Ctrl-C over from the system.
    pub(super) fn new() -> anyhow::Result<Self> {
        let is_pressed = Arc::new(AtomicBool::new(false));
        register_conditional_shutdown(SIGINT, INTERRUPTED, is_pressed.clone())
            .and_then(|_| register(SIGINT, is_pressed.clone()))
            .context("Ctrl-C")?;
        Ok(Self { is_pressed })
    }

    /// Whether it was pressed since this was asked last.
    pub(super) fn take(&self) -> bool {
        self.is_pressed.swap(false, Ordering::SeqCst)
    }
}
