use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::{
    cache::PagedKvCache,
    decode::{DecodeGraph, DecodeGraphConfig},
    policy::{DensePolicy, PagePolicy, PolicyKind},
};
use quest_burn_models::generation::decode_graph;

use super::{DecodeOptions, options::WARM_UP};
use crate::{BenchError, Launch, Target, Timing, layer, model::LoadedModel, read};

/// Replays that are queued before the host waits for the last of them, as in a generation.
const QUEUED: usize = 5;

/// A model with a filled KV cache.
pub(super) struct Session<'a> {
    options: &'a DecodeOptions,
    loaded: &'a LoadedModel,
    cache: PagedKvCache,
    context: usize,
    target: &'a Target,
}

/// The times of some steps, and how far the last one is from the same step untimed.
pub(super) struct Steps {
    pub timing: Timing,
    pub max_error: f64,
}

/// What the last of some timed steps was fed, and what it gave.
struct Last {
    fed: Vec<i32>,
    logits: Vec<f32>,
}

impl<'a> Session<'a> {
    /// Fills the cache with random tokens: what they are does not matter to the speed.
    pub(super) fn new(
        options: &'a DecodeOptions,
        loaded: &'a LoadedModel,
        target: &'a Target,
        batch: usize,
        context: usize,
    ) -> Result<Self, BenchError> {
        let config = options.cache(loaded, batch, context);
        let cache = layer::filled_cache(&config, context, target.device(), loaded.model.dtype())?;
        Ok(Self {
            options,
            loaded,
            cache,
            context,
            target,
        })
    }

    /// Times steps that begin at the context, dense or with a budget; nothing where the device has
    /// no hardware graphs and one is asked for.
    pub(super) fn time(
        &mut self,
        kind: PolicyKind,
        budget: Option<usize>,
        launch: Launch,
    ) -> Result<Option<Steps>, BenchError> {
        let policy: Box<dyn PagePolicy> = match budget {
            None => Box::new(DensePolicy),
            Some(budget) => {
                let page_size = self.options.cache_options.page_size;
                self.options.policy(kind, budget).init(page_size)?
            }
        };
        let steps = self.run(policy.as_ref(), launch)?;
        let checked = match steps {
            None => None,
            Some((timing, last)) => Some(Steps {
                timing,
                max_error: self.check(&last, policy.as_ref())?,
            }),
        };
        // A context of whole pages: nothing is computed to go back to it.
        self.shorten_to(self.context)?;
        Ok(checked)
    }

    fn run(
        &mut self,
        policy: &dyn PagePolicy,
        launch: Launch,
    ) -> Result<Option<(Timing, Last)>, BenchError> {
        let capture = launch == Launch::Graph;
        if capture && !DecodeGraph::records(&self.cache) {
            return Ok(None);
        }
        let steps = usize::from(self.options.steps);
        let config = DecodeGraphConfig::new()
            .with_capture(capture)
            .with_tokens_per_recording(self.options.capacity(0));
        let first = vec![0; self.cache.batch()];
        let model = self.loaded.model.model();
        let mut graph = decode_graph(model, &mut self.cache, policy, &first, config)?;
        let mut tokens = graph.run(WARM_UP)?;
        if capture && !graph.is_hardware() {
            return Ok(None);
        }
        // Whole choices, of which a part of the steps makes one.
        let period = policy.steps_per_choice();
        let queued = match capture {
            true => QUEUED.min(steps).next_multiple_of(period),
            false => period,
        };
        let rounds = (steps / queued).max(1);
        let mut times = Vec::new();
        for _ in 0..rounds {
            self.target.device().sync()?;
            let start = Instant::now();
            // The tokens are read back, which ends the work on every device.
            let new = graph.run(queued)?;
            times.push(start.elapsed().as_secs_f64() * 1e6 / queued as f64);
            for (tokens, new) in tokens.iter_mut().zip(new) {
                tokens.extend(new);
            }
        }
        // What the last step reads can be computed anew from the cache only if it chooses.
        let taken = WARM_UP + rounds * queued;
        let page_size = self.options.cache_options.page_size;
        let new = graph.run(steps_to_choice(policy, self.context, taken, page_size))?;
        for (tokens, new) in tokens.iter_mut().zip(new) {
            tokens.extend(new);
        }
        let fed = tokens.iter().map(|tokens| tokens[tokens.len() - 2] as i32);
        let logits = graph.logits()?.expect("steps were taken");
        let last = Last {
            fed: fed.collect(),
            logits: logits.concat(),
        };
        Ok(Some((Timing::of(times), last)))
    }

    /// Computes the last step once more, untimed, from the same cache and token.
    fn check(&mut self, last: &Last, policy: &dyn PagePolicy) -> Result<f64, BenchError> {
        self.shorten_to(self.cache.lengths()[0] - 1)?;
        let step = self.cache.decode()?;
        let ids = TensorData::new(last.fed.clone(), [last.fed.len(), 1]);
        let ids = Tensor::<2, Int>::from_data(ids, self.target.device());
        let model = self.loaded.model.model();
        let hidden = model.hidden(ids, &mut self.cache, &step, policy);
        deviation(&last.logits, &read::floats(model.logits(hidden))?)
    }

    fn shorten_to(&mut self, length: usize) -> Result<(), BenchError> {
        for sequence in 0..self.cache.batch() {
            self.cache.truncate(sequence, length)?;
        }
        Ok(())
    }
}

/// Steps to take after so many from `context` tokens on, so that the last one chooses what it reads.
fn steps_to_choice(
    policy: &dyn PagePolicy,
    context: usize,
    taken: usize,
    page_size: usize,
) -> usize {
    let (mut length, mut made_at) = (context + 1, context + 1);
    while length < context + taken || made_at < length {
        length += 1;
        if !policy.choice_serves(made_at, length, page_size) {
            made_at = length;
        }
    }
    length - context - taken
}

/// `|found - expected| / |expected|`, refused where it is more than rounding.
fn deviation(found: &[f32], expected: &[f32]) -> Result<f64, BenchError> {
    const TOLERANCE: f64 = 0.05;
    let (mut difference, mut size) = (0.0, 0.0);
    for (&found, &expected) in found.iter().zip(expected) {
        difference += (f64::from(found) - f64::from(expected)).powi(2);
        size += f64::from(expected).powi(2);
    }
    let deviation = (difference / size).sqrt();
    if found.len() == expected.len() && deviation <= TOLERANCE {
        return Ok(deviation);
    }
    Err(BenchError::Wrong {
        operation: "decode step".into(),
        expected: format!("the untimed step's logits within {TOLERANCE}"),
        found: format!("a deviation of {deviation}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_one_that_chooses() {
        let steps = |every: &str, budget: usize, taken: usize| {
            let quest = quest_burn::QuestConfig::new().with_token_budget(budget);
            let policy = quest_burn::policy::ReusePolicy::new(quest, every.parse().unwrap(), 8);
            steps_to_choice(&policy.unwrap(), 64, taken, 8)
        };
        assert_eq!(steps_to_choice(&DensePolicy, 64, 5, 8), 0);
        // Steps 1, 5, 9 and so on choose.
        assert_eq!(
            [1, 3, 5, 6].map(|taken| steps("every=4", 32, taken)),
            [0, 2, 0, 3]
        );
        // So do those that take a page, where the budget has no room for it.
        assert_eq!(
            [1, 8, 9].map(|taken| steps("every=7", 16, taken)),
            [0, 0, 0]
        );
        assert_eq!(steps("every=7", 16, 10), 6);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        assert_eq!(deviation(&[1.0, 2.0], &[1.0, 2.0]).unwrap(), 0.0);
        for bad in [[f32::NAN, 2.0], [-1.0, 2.0]] {
            let error = deviation(&bad, &[1.0, 2.0]).unwrap_err();
            assert!(!error.is_bad_request(), "{error}");
        }
    }
}
