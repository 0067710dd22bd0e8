//! A small model, and answers of it alone.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::mpsc::{Receiver, Sender, channel};

use burn::tensor::Device;
use quest_burn::cache::KvStorage;
use quest_burn_engine::{Answer, Engine, EngineConfig, Finished, Policy, Request, TokenMask};
use quest_burn_models::local::LocalModel;
use quest_burn_tests::{devices::devices, small_model};

pub(crate) use quest_burn_tests::small_model::{PAGE_SIZE, VOCAB_SIZE, prompt};

/// Random weights, on the CPU.
pub(crate) fn model() -> LocalModel {
    small_model::model(&Device::default())
}

/// The same on each device to test, with keys and values in all numbers.
pub(crate) fn models() -> impl Iterator<Item = LocalModel> {
    devices().into_iter().flat_map(|device| {
        let model = small_model::model(&device.device);
        KvStorage::ALL.map(|storage| model.clone().with_kv_storage(storage))
    })
}

/// An engine with room for so many pages.
pub(crate) fn engine(model: &LocalModel, pages: usize) -> Engine {
    engine_with(model, pages, |config| config)
}

pub(crate) fn engine_with(
    model: &LocalModel,
    pages: usize,
    change: impl FnOnce(EngineConfig) -> EngineConfig,
) -> Engine {
    // Tests run at once, and a device that records may be used by nobody else: tests of recordings take turns.
    let config = EngineConfig::new(pages * PAGE_SIZE).with_recording(false);
    Engine::start(model.clone(), change(config)).unwrap()
}

/// What a session gives that has the model for itself.
pub(crate) fn alone(
    model: &LocalModel,
    ids: &[u32],
    new_tokens: usize,
    policy: &Policy,
) -> Vec<u32> {
    small_model::alone(model, ids, new_tokens, policy.init().unwrap())
}

/// Allows everything, and holds the engine when it is asked for the first time.
struct Gate {
    entered: Sender<()>,
    released: Receiver<()>,
    is_open: bool,
}

impl TokenMask for Gate {
    fn allowed(&mut self) -> Result<Vec<u32>, String> {
        if !self.is_open {
            self.entered.send(()).unwrap();
            // Whoever is gone holds nothing any more.
            let _ = self.released.recv();
            self.is_open = true;
        }
        Ok(vec![u32::MAX; VOCAB_SIZE.div_ceil(32) as usize])
    }

    fn accept(&mut self, _id: u32) -> Result<(), String> {
        Ok(())
    }
}

/// An engine that waits in the middle of a step, whatever comes meanwhile.
pub(crate) struct Held {
    /// The answer that holds it.
    pub(crate) answer: Answer,
    released: Sender<()>,
}

impl Held {
    /// Holds an engine by a request that would have so many tokens.
    pub(crate) fn new(engine: &Engine, new_tokens: usize) -> Self {
        let (entered, has_entered) = channel();
        let (released, is_released) = channel();
        let gate = Gate {
            entered,
            released: is_released,
            is_open: false,
        };
        let request = Request::new(prompt(20, 99), new_tokens).with_mask(Some(Box::new(gate)));
        let answer = engine.submit(request).unwrap();
        has_entered.recv().unwrap();
        Self { answer, released }
    }

    /// Lets the engine go on; gives the answer that held it.
    pub(crate) fn release(self) -> Answer {
        let _ = self.released.send(());
        self.answer
    }
}

/// Hands requests in before the engine looks at any of them, and waits for all answers.
pub(crate) fn answers_together(
    engine: &Engine,
    requests: impl IntoIterator<Item = Request>,
) -> Vec<Finished> {
    let held = Held::new(engine, 1);
    let submitted = requests.into_iter().map(|r| engine.submit(r).unwrap());
    let submitted = submitted.collect::<Vec<_>>();
    held.release().wait().unwrap();
    submitted.into_iter().map(|a| a.wait().unwrap()).collect()
}

/// Hands requests in and waits for all answers.
pub(crate) fn answers(
    engine: &Engine,
    requests: impl IntoIterator<Item = Request>,
) -> Vec<Finished> {
    let submitted = requests.into_iter().map(|r| engine.submit(r).unwrap());
    let submitted = submitted.collect::<Vec<_>>();
    submitted.into_iter().map(|a| a.wait().unwrap()).collect()
}

pub(crate) fn quest() -> Policy {
    Policy::quest(3 * PAGE_SIZE)
}
