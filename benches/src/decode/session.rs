use std::time::Instant;

use burn::tensor::{Int, Tensor, TensorData};
use quest_burn::{
    cache::PagedKvCache,
    policy::{DensePolicy, PagePolicy},
};

use super::{DecodeOptions, options::WARM_UP};
use crate::{BenchError, Target, Timing, layer, model::LoadedModel, read};

/// A model with a filled KV cache.
pub struct Session<'a> {
    options: &'a DecodeOptions,
    loaded: &'a LoadedModel,
    cache: PagedKvCache,
    context: usize,
    target: &'a Target,
}

/// The times of some steps, and how far the first timed one is from the same step untimed.
pub struct Steps {
    pub timing: Timing,
    pub max_error: f64,
}

impl<'a> Session<'a> {
    /// Fills the cache with random tokens: what they are does not matter to the speed.
    pub fn new(
        options: &'a DecodeOptions,
        loaded: &'a LoadedModel,
        target: &'a Target,
        batch: usize,
        context: usize,
    ) -> Result<Self, BenchError> {
        let capacity = options.capacity(context);
        let config = loaded.config.cache(options.page_size, batch, capacity);
        let cache = layer::filled_cache(&config, context, target.device(), loaded.dtype)?;
        Ok(Self {
            options,
            loaded,
            cache,
            context,
            target,
        })
    }

    /// Times steps that begin at the context, dense or with a budget.
    pub fn time(&mut self, budget: Option<usize>) -> Result<Steps, BenchError> {
        let policy: Box<dyn PagePolicy> = match budget {
            None => Box::new(DensePolicy),
            Some(budget) => Box::new(self.options.quest(budget).init()?),
        };
        let first = vec![0; self.cache.batch()];
        let (logits, mut ids) = self.step(&first, policy.as_ref())?;
        let expected = read::floats(logits)?;
        for _ in 1..WARM_UP {
            ids = self.step(&ids, policy.as_ref())?.1;
        }
        // A context of whole pages: nothing is computed to go back to it.
        self.rewind()?;
        let mut times = Vec::new();
        let mut ids = first;
        let mut found = None;
        for _ in 0..self.options.steps {
            self.target.device().sync()?;
            let start = Instant::now();
            let (logits, next) = self.step(&ids, policy.as_ref())?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            ids = next;
            found.get_or_insert(logits);
        }
        self.rewind()?;
        let found = read::floats(found.expect("at least one step is timed"))?;
        Ok(Steps {
            timing: Timing::of(times),
            max_error: deviation(&found, &expected)?,
        })
    }

    /// Logits of the next token, and the most probable one, which ends the work on every device.
    fn step(
        &mut self,
        ids: &[i32],
        policy: &dyn PagePolicy,
    ) -> Result<(Tensor<3>, Vec<i32>), BenchError> {
        let step = self.cache.decode()?;
        let ids = TensorData::new(ids.to_vec(), [ids.len(), 1]);
        let ids = Tensor::<2, Int>::from_data(ids, self.target.device());
        let model = &self.loaded.model;
        let hidden = model.hidden(ids, &mut self.cache, &step, policy);
        let logits = model.logits(hidden);
        let next = read::ints(logits.clone().argmax(2))?;
        Ok((logits, next))
    }

    fn rewind(&mut self) -> Result<(), BenchError> {
        for sequence in 0..self.cache.batch() {
            self.cache.truncate(sequence, self.context)?;
        }
        Ok(())
    }
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
    fn logits_that_are_no_numbers_are_refused() {
        assert_eq!(deviation(&[1.0, 2.0], &[1.0, 2.0]).unwrap(), 0.0);
        for bad in [[f32::NAN, 2.0], [-1.0, 2.0]] {
            let error = deviation(&bad, &[1.0, 2.0]).unwrap_err();
            assert!(!error.is_bad_request(), "{error}");
        }
    }
}
