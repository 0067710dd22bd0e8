//! Threads that stay awake for a while after their work, as a decode step has some of it every few
//! microseconds: waking a thread takes longer than most of its operations.
//!
//! The caller works along. It never waits for a thread that has not begun, so that a thread that sleeps, or that
//! another program has displaced, costs nothing but its help.

use std::{
    any::Any,
    hint,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a thread looks for more work before it sleeps.
const AWAKE: Duration = Duration::from_micros(300);

/// Looks between two looks at the clock.
const LOOKS: usize = 64;

/// The state of a team: whether there is work to join, and the threads that have joined it.
const OPEN: usize = 1;
const JOINED: usize = 2;

/// Calls `run` with every number below `tasks`, on as many threads as rayon has.
///
/// Within another call of this function, and while a call of another thread goes on, the calling thread does
/// everything itself.
///
/// # Panics
///
/// When a call of `run` does; all others have ended by then.
pub fn for_each(tasks: usize, run: impl Fn(usize) + Sync) {
    static TEAM: OnceLock<Team> = OnceLock::new();
    let is_alone = tasks < 2 || rayon::current_num_threads() == 1;
    let team =
        (!is_alone).then(|| TEAM.get_or_init(|| Team::new(rayon::current_num_threads() - 1)));
    let call = team.and_then(|team| match team.call.try_lock() {
        Ok(call) => Some((team, call)),
        // A task of an earlier call has panicked, which that call has told.
        Err(TryLockError::Poisoned(call)) => Some((team, call.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    });
    match call {
        Some((team, _call)) => team.work(tasks, &run),
        None => (0..tasks).for_each(run),
    }
}

/// The results of all tasks, in order, of [`for_each`].
pub fn map<T: Send>(tasks: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let results: Vec<_> = (0..tasks).map(|_| Mutex::new(None)).collect();
    for_each(tasks, |task| {
        let result = run(task);
        *results[task].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    });
    let of_task = |result: Mutex<Option<T>>| {
        let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        result.expect("every task has run")
    };
    results.into_iter().map(of_task).collect()
}

struct Team {
    /// Held by who calls.
    call: Mutex<()>,
    shared: &'static Shared,
    threads: Vec<Thread>,
}

/// What the threads of a team see. There is one team, for as long as the program runs.
struct Shared {
    state: AtomicUsize,
    /// The next task.
    next: AtomicUsize,
    /// Works until now.
    works: AtomicUsize,
    work: Mutex<Option<Work>>,
    asleep: Vec<AtomicBool>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct Work {
    number: usize,
    tasks: usize,
    run: &'static (dyn Fn(usize) + Sync),
}

impl Team {
    fn new(helpers: usize) -> Self {
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            state: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            works: AtomicUsize::new(0),
            work: Mutex::new(None),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
        }));
        let start = |index: usize| {
            let thread = thread::Builder::new().name(format!("quest-team-{index}"));
            let started = thread.spawn(move || shared.help(index));
            // Fewer threads are slower and no more than that.
            Some(started.ok()?.thread().clone())
        };
        Self {
            call: Mutex::new(()),
            shared,
            threads: (0..helpers).map_while(start).collect(),
        }
    }

    fn work(&self, tasks: usize, run: &(dyn Fn(usize) + Sync)) {
        let shared = self.shared;
        // SAFETY: threads read it between joining and leaving. Nobody joins once the state is not open, and
        // this function ends after all who joined have left: `leave` waits for them, in a panic too.
        let run: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(run) };
        let number = shared.works.fetch_add(1, Ordering::Relaxed) + 1;
        let work = Work { number, tasks, run };
        *lock(&shared.work) = Some(work);
        shared.next.store(0, Ordering::Relaxed);
        shared.state.store(OPEN, Ordering::SeqCst);
        for (thread, asleep) in self.threads.iter().zip(&shared.asleep) {
            if asleep.swap(false, Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.tasks(work)));
        if own.is_err() {
            shared.next.store(tasks, Ordering::Relaxed);
        }
        shared.leave();
        let others = lock(&shared.panic).take();
        if let Some(panic) = own.err().or(others) {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    /// Does tasks until none is left.
    fn tasks(&self, work: Work) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= work.tasks {
                break;
            }
            (work.run)(task);
        }
    }

    /// Lets nobody join any more and waits for those who have.
    fn leave(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut looks = 0;
        while self.state.load(Ordering::Acquire) != 0 {
            looks += 1;
            if looks % (1 << 14) == 0 {
                // One of them may have been displaced.
                thread::yield_now();
            }
            hint::spin_loop();
        }
        *lock(&self.work) = None;
    }

    fn help(&self, index: usize) {
        loop {
            if !self.join() {
                self.wait(index);
                continue;
            }
            let work = *lock(&self.work);
            if let Some(work) = work {
                let done = catch_unwind(AssertUnwindSafe(|| self.tasks(work)));
                if let Err(panic) = done {
                    self.next.store(work.tasks, Ordering::Relaxed);
                    *lock(&self.panic) = Some(panic);
                }
            }
            self.state.fetch_sub(JOINED, Ordering::Release);
            // What is left of this work is others'.
            let number = work.map_or(0, |work| work.number);
            while self.state.load(Ordering::Acquire) & OPEN != 0
                && self.works.load(Ordering::Relaxed) == number
            {
                hint::spin_loop();
            }
        }
    }

    /// Joins the work that there is.
    fn join(&self) -> bool {
        let join = |state: usize| (state & OPEN != 0).then_some(state + JOINED);
        (self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, join))
        .is_ok()
    }

    /// Returns when there is work, or after a sleep.
    fn wait(&self, index: usize) {
        let begin = Instant::now();
        while begin.elapsed() < AWAKE {
            for _ in 0..LOOKS {
                if self.state.load(Ordering::Acquire) & OPEN != 0 {
                    return;
                }
                hint::spin_loop();
            }
        }
        self.asleep[index].store(true, Ordering::SeqCst);
        if self.state.load(Ordering::SeqCst) & OPEN != 0 {
            self.asleep[index].store(false, Ordering::SeqCst);
            return;
        }
        while self.asleep[index].load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

/// What is behind a lock; a panic while it was held has left it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_and_results_are_in_order() {
        for tasks in [0, 1, 2, 7, 1000] {
            assert_eq!(
                map(tasks, |task| task * 3),
                (0..tasks).map(|task| task * 3).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn threads_that_slept_are_woken() {
        for _ in 0..5 {
            thread::sleep(2 * AWAKE);
            assert_eq!(map(64, |task| task), (0..64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn calls_within_calls_and_of_several_threads_all_end() {
        let sum = || map(8, |task| map(8, |inner| task * inner).iter().sum::<usize>());
        let expected: Vec<usize> = (0..8).map(|task| task * 28).collect();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(sum(), expected);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_works_on() {
        for _ in 0..20 {
            let caught = catch_unwind(|| for_each(64, |task| assert!(task != 33, "task 33")));
            let panic = caught.expect_err("a task has panicked");
            let message = panic.downcast_ref::<String>().map(String::as_str);
            assert_eq!(
                message.or(panic.downcast_ref::<&str>().copied()),
                Some("task 33")
            );
            assert_eq!(map(16, |task| task).len(), 16);
        }
    }
}
