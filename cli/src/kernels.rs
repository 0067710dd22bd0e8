//! Kernels of a GPU: kept from run to run, and said where compiling them takes time.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::BinaryBytes;
use log::{Level, Record};
use quest_burn::kernel_cache::{KernelCache, KernelCacheConfig, KernelCacheState};
use serde::Serialize;

/// Compiling that takes less is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);

static CACHE: OnceLock<KernelCache> = OnceLock::new();
static WATCH: Watch = Watch::new();

/// The cache of compiled kernels, which is opened by the first call: before the first GPU is.
pub(crate) fn cache() -> &'static KernelCache {
    CACHE.get_or_init(|| {
        let cache = KernelCacheConfig::new().init();
        if let Some(discarded) = cache.discarded() {
            eprintln!("kernel cache: begun again: {discarded}");
        }
        if let KernelCacheState::Memory(reason) = cache.state() {
            eprintln!("kernel cache: kernels are compiled for this run only: {reason}");
        }
        cache
    })
}

/// Where compiled kernels are kept, and how much they take.
#[derive(Serialize)]
pub(crate) struct CacheInfo {
    /// The file; `None` where kernels are compiled for one run only.
    path: Option<PathBuf>,
    bytes: u64,
    max_bytes: u64,
}

/// What `quest info` says of the cache.
pub(crate) fn info() -> CacheInfo {
    let cache = cache();
    CacheInfo {
        path: match cache.state() {
            KernelCacheState::File(path) => Some(path.clone()),
            _ => None,
        },
        bytes: cache.bytes(),
        max_bytes: cache.max_bytes(),
    }
}

impl fmt::Display for CacheInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, max) = (BinaryBytes(self.bytes), BinaryBytes(self.max_bytes));
        match &self.path {
            Some(path) => write!(f, "{bytes} of at most {max} in {}", path.display()),
            None => write!(f, "none: kernels are compiled for each run"),
        }
    }
}

/// Says on stderr what was compiled and tuned, if anything was.
pub(crate) fn report() {
    let (compiled, tuned) = (count(&WATCH.compiled), count(&WATCH.tuned));
    if compiled + tuned == 0 {
        return;
    }
    let kept = match CACHE.get().map(KernelCache::state) {
        Some(KernelCacheState::File(_)) => ", kept for later runs",
        _ => "",
    };
    eprintln!("kernels: {compiled} compiled, {tuned} tuned{kept}");
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

/// Counts compilations by what CubeCL logs of them.
struct Watch {
    compiled: AtomicUsize,
    tuned: AtomicUsize,
    is_watched: AtomicBool,
    latest: Mutex<Option<Instant>>,
}

/// What a line of CubeCL's log tells.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Compiles,
    Tunes,
}

impl Event {
    /// By module and first words.
    fn of(module: &str, message: &str) -> Option<Self> {
        match module {
            "cubecl_cuda::compute::context" | "cubecl_metal::compute::context"
                if message.starts_with("Compiling kernel") =>
            {
                Some(Self::Compiles)
            }
            "cubecl_wgpu::backend::vulkan" if message.starts_with("Compiling ") => {
                Some(Self::Compiles)
            }
            "cubecl_wgpu::backend::base" if message.contains("compiling WGSL module") => {
                Some(Self::Compiles)
            }
            "cubecl_runtime::tune::tuner" if message.starts_with("Tuning ") => Some(Self::Tunes),
            _ => None,
        }
    }

    fn is_from(module: &str) -> bool {
        module.starts_with("cubecl_")
    }
}

impl Watch {
    const fn new() -> Self {
        Self {
            compiled: AtomicUsize::new(0),
            tuned: AtomicUsize::new(0),
            is_watched: AtomicBool::new(false),
            latest: Mutex::new(None),
        }
    }

    fn note(&'static self, event: Event) {
        match event {
            Event::Compiles => &self.compiled,
            Event::Tunes => &self.tuned,
        }
        .fetch_add(1, Ordering::Relaxed);
        if let Ok(mut latest) = self.latest.lock() {
            *latest = Some(Instant::now());
        }
        if !self.is_watched.swap(true, Ordering::Relaxed) {
            thread::spawn(|| self.say_when_it_takes_long());
        }
    }

    /// Says once that kernels are compiled, when they still are after a second.
    fn say_when_it_takes_long(&self) {
        loop {
            thread::sleep(PATIENCE);
            let latest = self.latest.lock().ok().and_then(|mut latest| latest.take());
            if latest.is_some_and(|latest| latest.elapsed() < PATIENCE) {
                eprintln!("compiling kernels: the first run on a device takes longer");
                return;
            }
        }
    }
}

/// Counts what a line of the log tells of compiling and tuning.
pub(crate) fn note(record: &Record) {
    if record.level() < Level::Info || !Event::is_from(record.target()) {
        return;
    }
    let message = match record.args().as_str() {
        Some(message) => message.into(),
        None => record.args().to_string(),
    };
    if let Some(event) = Event::of(record.target(), &message) {
        WATCH.note(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilations_and_tunings_are_told_apart() {
        let of = Event::of;
        let cuda = "cubecl_cuda::compute::context";
        assert_eq!(of(cuda, "Compiling kernel"), Some(Event::Compiles));
        assert_eq!(of(cuda, "Using PTX cache"), None);
        let tuner = "cubecl_runtime::tune::tuner";
        assert_eq!(of(tuner, "Tuning matmul"), Some(Event::Tunes));
        assert_eq!(of("wgpu_core::device", "Compiling kernel"), None);
    }
}
