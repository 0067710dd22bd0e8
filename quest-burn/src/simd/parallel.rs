use std::sync::Mutex;

use quest_burn_linear::native::team;

/// Elements below which threads cost more than they save.
const WORTH_THREADS: usize = 1 << 16;

/// The results of all tasks, in order. `elements` is how many elements they read together.
pub(super) fn map<T: Send, R: Send>(
    tasks: Vec<T>,
    elements: usize,
    run: impl Fn(T) -> R + Send + Sync,
) -> Vec<R> {
    if tasks.len() == 1 || elements < WORTH_THREADS {
        return tasks.into_iter().map(run).collect();
    }
    let tasks: Vec<_> = (tasks.into_iter())
        .map(|task| Mutex::new(Some(task)))
        .collect();
    team::map(tasks.len(), |index| {
        let task = tasks[index].lock().ok().and_then(|mut task| task.take());
        run(task.expect("a task is run once"))
    })
}

/// How many of `n` things one task does, when there are `tasks` tasks even if each does all.
/// Enough tasks are made for threads that do not run at the same speed.
pub(super) fn per_task(n: usize, tasks: usize) -> usize {
    let wanted = 8 * rayon::current_num_threads();
    n.div_ceil(wanted.div_ceil(tasks.max(1))).max(1)
}
