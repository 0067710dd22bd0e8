use quest_burn_models::local::LocalModel;

use crate::{Answer, EngineConfig, EngineError, Request, Stats, SubmitError};

/// A handle on a model at work on many sequences. Clones are handles on the same engine.
///
/// The model lives on a thread of its own, which ends with [`shutdown`](Self::shutdown) or once the last
/// handle and the last answer are gone.
#[derive(Clone, Debug)]
pub struct Engine {}

impl Engine {
    /// Takes the memory of the KV cache and starts the thread.
    ///
    /// # Errors
    ///
    /// When the configuration makes no sense or the cache cannot be made.
    pub fn start(model: LocalModel, config: EngineConfig) -> Result<Self, EngineError> {
        config.validate()?;
        let _ = model;
        unimplemented!()
    }

    /// Hands a request in.
    ///
    /// # Errors
    ///
    /// When the request is refused: it makes no sense, can never fit, or too many wait.
    pub fn submit(&self, request: Request) -> Result<Answer, SubmitError> {
        let _ = request;
        unimplemented!()
    }

    /// What the engine is at.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Whether requests are taken.
    pub fn is_running(&self) -> bool {
        unimplemented!()
    }

    /// Takes no further request, and waits until those that were taken have ended.
    pub fn shutdown(&self) {
        unimplemented!()
    }

    /// The model.
    pub fn model(&self) -> &LocalModel {
        unimplemented!()
    }

    /// The configuration.
    pub fn config(&self) -> &EngineConfig {
        unimplemented!()
    }
}
