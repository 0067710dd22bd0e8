use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::Semaphore;

use crate::{
    answer::calls::TOKENS,
    backend::Backend,
    config::{ModelInfo, ServerConfig},
    error::ApiError,
    grammar::{CompiledGrammar, Grammar},
    metrics::Metrics,
    text::{Text, TextError},
};

/// Between two looks at whether work is left.
const IDLE_CHECK: Duration = Duration::from_millis(20);

/// What all requests share.
pub(crate) struct State {
    pub config: ServerConfig,
    pub model: ModelInfo,
    pub text: Arc<dyn Text>,
    pub backend: Arc<dyn Backend>,
    pub metrics: Metrics,
    /// A permit for each request that is worked on.
    pub requests: Arc<Semaphore>,
    /// A permit for each grammar that is compiled: cores are left for answers.
    compilers: Semaphore,
    /// Tokens of calls that decoding would leave out.
    pub call_tokens: HashMap<u32, String>,
    pub started: u64,
    is_ending: AtomicBool,
}

impl State {
    pub(crate) fn new(
        config: ServerConfig,
        model: ModelInfo,
        text: Arc<dyn Text>,
        backend: Arc<dyn Backend>,
    ) -> Self {
        let tokens = TOKENS.iter().filter_map(|token| {
            let id = text.id(token)?;
            Some((id, (*token).to_owned()))
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            call_tokens: tokens.collect(),
            metrics: Metrics::default(),
            requests: Arc::new(Semaphore::new(config.limits.requests)),
            compilers: Semaphore::new(cores.div_ceil(2)),
            started: seconds(),
            is_ending: AtomicBool::new(false),
            config,
            model,
            text,
            backend,
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Waits until no request is worked on.
    pub(crate) async fn idle(&self) {
        while self.requests.available_permits() < self.config.limits.requests {
            tokio::time::sleep(IDLE_CHECK).await;
        }
    }

    /// Compiles what answers have to be, away from the tasks. An error says what is wrong with it.
    pub(crate) async fn compile(
        &self,
        grammar: Grammar,
    ) -> Result<Result<CompiledGrammar, String>, ApiError> {
        let permit = self.compilers.acquire().await;
        let _permit = permit.expect("permits are given out as long as the server is there");
        let backend = self.backend.clone();
        let work = tokio::task::spawn_blocking(move || backend.compile(&grammar));
        let done = work.await;
        done.map_err(|error| ApiError::internal(format!("the grammar failed: {error}")))
    }

    /// Runs what takes a while away from the tasks.
    pub(crate) async fn with_text<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Text) -> Result<T, TextError> + Send + 'static,
    ) -> Result<Result<T, TextError>, ApiError> {
        let text = self.text.clone();
        let work = tokio::task::spawn_blocking(move || work(&*text));
        let done = work.await;
        done.map_err(|error| ApiError::internal(format!("the tokenizer failed: {error}")))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
