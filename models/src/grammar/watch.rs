//! Ends masks that take too long. Steps of regular expressions and items of the parser are counted, but what
//! an item takes depends on how many others there are: ambiguous rules make it seconds.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use llguidance::CancellationHandle;

/// What is watched, by when it has to be done; numbers tell those of one moment apart.
#[derive(Default)]
struct Watched {
    handles: BTreeMap<(Instant, u64), CancellationHandle>,
    next: u64,
}

#[derive(Default)]
struct Watch {
    watched: Mutex<Watched>,
    changed: Condvar,
}

/// Work that is cancelled if it is not done in time; it is done when this is dropped.
pub(super) struct Timed(Option<(Instant, u64)>);

/// Cancels what `handle` is of after so long.
pub(super) fn limited(handle: CancellationHandle, time: Duration) -> Timed {
    let deadline = Instant::now().checked_add(time);
    let Some(deadline) = deadline.filter(|_| !time.is_zero()) else {
        if time.is_zero() {
            handle.cancel();
        }
        return Timed(None);
    };
    let watch = watch();
    let mut watched = watch.lock();
    let key = (deadline, watched.next);
    watched.next += 1;
    watched.handles.insert(key, handle);
    if watched.handles.keys().next() == Some(&key) {
        watch.changed.notify_one();
    }
    Timed(Some(key))
}

impl Drop for Timed {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            watch().lock().handles.remove(&key);
        }
    }
}

fn watch() -> &'static Watch {
    static WATCH: OnceLock<&'static Watch> = OnceLock::new();
    WATCH.get_or_init(|| {
        let watch = Box::leak(Box::new(Watch::default()));
        let (watch, thread) = (&*watch, thread::Builder::new());
        let started = thread
            .name("quest-grammar-watch".to_owned())
            .spawn(|| watch.run());
        if let Err(error) = started {
            log::warn!("masks are not limited in time: {error}");
        }
        watch
    })
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut watched = self.lock();
        loop {
            let now = Instant::now();
            while let Some(first) = watched.handles.first_entry()
                && first.key().0 <= now
            {
                first.remove().cancel();
            }
            let first = watched.handles.keys().next();
            watched = match first.map(|(deadline, _)| *deadline - now) {
                Some(time) => {
                    let waited = self.changed.wait_timeout(watched, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(watched);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use llguidance::Matcher;

    use super::*;

    fn handle() -> CancellationHandle {
        let env = toktrie::ApproximateTokEnv::single_byte_env();
        let factory = llguidance::ParserFactory::new_simple(&env).unwrap();
        let grammar = llguidance::api::TopLevelGrammar::from_regex("a");
        let matcher = Matcher::new(factory.create_parser(grammar)).into_cancellable();
        matcher.cancellation_handle().unwrap()
    }

    #[test]
    fn only_what_is_not_done_is_cancelled() {
        let [soon, done, late, never] = [(); 4].map(|()| handle());
        let late_one = limited(late.clone(), Duration::from_secs(3600));
        let soon_one = limited(soon.clone(), Duration::from_millis(30));
        drop(limited(done.clone(), Duration::from_millis(30)));
        drop(limited(never.clone(), Duration::MAX));
        while !soon.is_cancelled() {
            thread::yield_now();
        }
        drop((soon_one, late_one));
        assert!(
            ![&done, &late, &never]
                .map(CancellationHandle::is_cancelled)
                .contains(&true)
        );
    }
}
