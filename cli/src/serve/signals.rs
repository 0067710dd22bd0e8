//! What tells the program to end.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::{runtime::Runtime, sync::oneshot};

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The code of a program that a second signal ends.
const INTERRUPTED: i32 = 130;

/// How the program comes to its end. Signals are waited for from here on: one that comes before anything is
/// served ends the program at once, as there is nothing to wait for.
pub(super) struct Ending {
    is_serving: Arc<AtomicBool>,
    came: oneshot::Receiver<()>,
}

impl Ending {
    pub(super) fn new(runtime: &Runtime) -> io::Result<Self> {
        let mut signals = {
            let _runtime = runtime.enter();
            Signals::new()?
        };
        let is_serving = Arc::new(AtomicBool::new(false));
        let (comes, came) = oneshot::channel();
        let serving = is_serving.clone();
        runtime.spawn(async move {
            signals.next().await;
            if !serving.load(Ordering::SeqCst) {
                eprintln!("ending before anything was served");
                std::process::exit(0);
            }
            eprintln!("ending; a second signal ends it at once");
            let _ = comes.send(());
            signals.next().await;
            std::process::exit(INTERRUPTED);
        });
        Ok(Self { is_serving, came })
    }

    /// Requests are served from here on; waits for the signal that ends this.
    pub(super) fn of_serving(self) -> impl Future<Output = ()> + Send + 'static {
        self.is_serving.store(true, Ordering::SeqCst);
        async move {
            // The task that sends it lives as long as the runtime.
            let _ = self.came.await;
        }
    }
}

/// Ends the program when stdin does. Whoever held the other end needs it no more, and may have ended in a way that
/// told nobody.
pub(super) fn end_with_stdin() -> io::Result<()> {
    let thread = thread::Builder::new().name("quest-stdin".to_owned());
    let watching = thread.spawn(|| {
        // What cannot be read has no end to wait for.
        if io::copy(&mut io::stdin().lock(), &mut io::sink()).is_ok() {
            std::process::exit(0);
        }
    });
    watching.map(drop)
}

/// Ctrl-C, and SIGTERM where there is one.
struct Signals {
    #[cfg(unix)]
    interrupts: Signal,
    #[cfg(unix)]
    terminations: Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupts: signal(SignalKind::interrupt())?,
            terminations: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next one.
    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => (),
            _ = self.terminations.recv() => (),
        }
    }

    /// The next one.
    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without signals the program ends as its process does.
            std::future::pending::<()>().await;
        }
    }
}
