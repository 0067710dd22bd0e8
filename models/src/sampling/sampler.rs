use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};

use super::{
    Distribution, SampleError, SamplingConfig,
    filters::{self, Candidate},
};

/// Draws tokens as a [`SamplingConfig`] says.
///
/// Should be created with [`SamplingConfig::init`]. The same configuration, seed and logits give
/// the same tokens on every platform and in every version: the generator is a named one, and its
/// bits are turned into a number here.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplingConfig,
    rng: Xoshiro256PlusPlus,
    /// Tokens that occurred, for the repetition penalty.
    seen: BTreeSet<u32>,
    logits: Vec<f64>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    pub(super) fn new(config: SamplingConfig) -> Self {
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(config.seed),
            seen: BTreeSet::new(),
            logits: Vec::new(),
            candidates: Vec::new(),
            config,
        }
    }

    /// Whether the token of the highest logit is taken, whatever came before.
    pub fn is_argmax(&self) -> bool {
        self.config.is_greedy() && self.config.repetition_penalty == 1.0
    }

    /// Takes note of tokens of the prompt or of the answer, for the repetition penalty.
    pub fn observe(&mut self, ids: &[u32]) {
        if self.config.repetition_penalty != 1.0 {
            self.seen.extend(ids);
        }
    }

    /// Chooses a token, given the logit of every token of the vocabulary.
    ///
    /// # Errors
    ///
    /// When a logit is NaN or positive infinity, or all are negative infinity. No random number
    /// is then used up.
    ///
    /// # Panics
    ///
    /// When an [observed](Self::observe) token is outside the vocabulary.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        Ok(match self.filter(logits, &[])? {
            Some(most_probable) => most_probable,
            None => self.draw(),
        })
    }

    /// What [`sample`](Self::sample) would draw from, had `occurred` been [observed](Self::observe) too.
    ///
    /// # Errors
    ///
    /// As [`sample`](Self::sample).
    ///
    /// # Panics
    ///
    /// When a token that occurred is outside the vocabulary.
    pub fn distribution(
        &mut self,
        logits: &[f32],
        occurred: &[u32],
    ) -> Result<Distribution, SampleError> {
        Ok(match self.filter(logits, occurred)? {
            Some(most_probable) => Distribution::certain(most_probable),
            None => Distribution::of_candidates(&self.candidates),
        })
    }

    /// A token of a distribution. A certain one takes no random number.
    pub fn draw_from(&mut self, distribution: &Distribution) -> u32 {
        match distribution.only() {
            Some(id) => id,
            None => distribution.at(self.uniform()),
        }
    }

    /// A number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        uniform(&mut self.rng)
    }

    /// The one token that may be drawn, where nothing is to be drawn; leaves candidates otherwise.
    fn filter(&mut self, logits: &[f32], occurred: &[u32]) -> Result<Option<u32>, SampleError> {
        self.logits.clear();
        self.logits.extend(logits.iter().map(|&l| f64::from(l)));
        let penalty = self.config.repetition_penalty;
        if penalty != 1.0 && !occurred.is_empty() {
            let mut seen = self.seen.clone();
            seen.extend(occurred);
            filters::repetition_penalty(&mut self.logits, &seen, penalty);
        } else {
            filters::repetition_penalty(&mut self.logits, &self.seen, penalty);
        }
        let (most_probable, highest) = argmax(&self.logits)?;
        if self.config.is_greedy() {
            return Ok(Some(most_probable));
        }
        self.candidates.clear();
        self.candidates.extend(
            self.logits
                .iter()
                .zip(0..)
                .filter(|(logit, _)| **logit > f64::NEG_INFINITY)
                // The highest is subtracted first, so that no temperature overflows.
                .map(|(logit, id)| Candidate {
                    id,
                    score: (logit - highest) / self.config.temperature,
                }),
        );
        if let Some(k) = self.config.top_k {
            filters::top_k(&mut self.candidates, k);
        }
        filters::top_p(&mut self.candidates, self.config.top_p);
        filters::min_p(&mut self.candidates, self.config.min_p);
        Ok(None)
    }

    /// A candidate, by its probability.
    fn draw(&mut self) -> u32 {
        let total = self.candidates.iter().map(Candidate::weight).sum::<f64>();
        let target = uniform(&mut self.rng) * total;
        let (last, others) = self
            .candidates
            .split_last()
            .expect("every filter keeps the most probable candidate");
        let mut mass = 0.0;
        for candidate in others {
            mass += candidate.weight();
            if target < mass {
                return candidate.id;
            }
        }
        last.id
    }
}

/// The lowest id among those with the highest logit, and that logit.
fn argmax(logits: &[f64]) -> Result<(u32, f64), SampleError> {
    let mut best = None;
    let mut highest = f64::NEG_INFINITY;
    for (&value, id) in logits.iter().zip(0..) {
        if value.is_nan() || value == f64::INFINITY {
            return Err(SampleError::NotFinite { id, value });
        }
        if value > highest {
            (best, highest) = (Some(id), value);
        }
    }
    let id = best.ok_or(SampleError::NoCandidate { n: logits.len() })?;
    Ok((id, highest))
}

/// A number in [0, 1) from the upper 53 bits.
fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    /// Shares of each token among many draws.
    fn shares(config: SamplingConfig, logits: &[f32], observed: &[u32]) -> Vec<f64> {
        const DRAWS: usize = 40_000;
        let mut sampler = config.with_seed(7).init().unwrap();
        sampler.observe(observed);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..DRAWS {
            counts[sampler.sample(logits).unwrap() as usize] += 1.0;
        }
        counts.iter().map(|count| count / DRAWS as f64).collect()
    }

    #[track_caller]
    fn assert_shares(shares: &[f64], expected: &[f64]) {
        for (share, expected) in shares.iter().zip(expected) {
            // Four standard deviations of 40,000 draws; never drawn where impossible.
            let tolerance = 4.0 * (expected * (1.0 - expected) / 40_000.0).sqrt();
            assert!(
                (share - expected).abs() <= tolerance,
                "{shares:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn greedy_takes_the_highest_and_the_lower_id_among_equals() {
        let mut sampler = SamplingConfig::new().init().unwrap();
        assert_eq!(sampler.sample(&[0.5, 2.0, -1.0, 2.0]), Ok(1));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, -3.0]), Ok(1));
        assert_eq!(sampler.sample(&[-0.0, 0.0]), Ok(0));
    }

    #[test]
    fn greedy_respects_the_repetition_penalty() {
        let config = SamplingConfig::new().with_repetition_penalty(2.0);
        let mut sampler = config.init().unwrap();
        assert_eq!(sampler.sample(&[3.0, 2.0, 1.0]), Ok(0));
        sampler.observe(&[0, 0]);
        assert_eq!(sampler.sample(&[3.0, 2.0, 1.0]), Ok(1), "3 / 2 < 2, once");
        assert_eq!(sampler.sample(&[5.0, 2.0, 1.0]), Ok(0), "5 / 2 > 2");
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let probabilities = [0.5, 0.25, 0.2, 0.05];
        let config = SamplingConfig::new().with_temperature(1.0);
        assert_shares(
            &shares(config, &logits(&probabilities), &[]),
            &[0.5, 0.25, 0.2, 0.05],
        );
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        // Squared and square-rooted odds of 4 : 1.
        let logits = logits(&[0.8, 0.2]);
        let config = SamplingConfig::new().with_temperature(0.5);
        assert_shares(&shares(config, &logits, &[]), &[16.0 / 17.0, 1.0 / 17.0]);
        let config = SamplingConfig::new().with_temperature(2.0);
        assert_shares(&shares(config, &logits, &[]), &[2.0 / 3.0, 1.0 / 3.0]);
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_does_not_overflow() {
        let config = SamplingConfig::new().with_temperature(f64::MIN_POSITIVE);
        let mut sampler = config.init().unwrap();
        for _ in 0..100 {
            assert_eq!(sampler.sample(&[f32::MIN, 1.0, 0.5, f32::MAX]), Ok(3));
        }
    }

    #[test]
    fn filters_act_one_after_the_other() {
        // Penalty 2 on token 0: ln 16 -> ln 4, so the odds are 4 : 8 : 4 : 2 : 1.
        let logits = [16.0_f32, 8.0, 4.0, 2.0, 1.0].map(f32::ln);
        let config = SamplingConfig::new()
            .with_temperature(1.0)
            .with_repetition_penalty(2.0);
        let shares_of = |config| shares(config, &logits, &[0]);
        assert_shares(
            &shares_of(config.clone()),
            &[4.0, 8.0, 4.0, 2.0, 1.0].map(|odds| odds / 19.0),
        );
        // top-k 4 leaves 4 : 8 : 4 : 2 of 18; top-p 0.8 needs 14.4 of them: 8 + 4 + 4.
        let config = config.with_top_k(Some(4)).with_top_p(0.8);
        assert_shares(&shares_of(config.clone()), &[0.25, 0.5, 0.25, 0.0, 0.0]);
        // min-p 0.6 of 8 leaves the highest alone.
        assert_shares(
            &shares_of(config.with_min_p(0.6)),
            &[0.0, 1.0, 0.0, 0.0, 0.0],
        );
    }

    #[test]
    fn impossible_tokens_are_never_drawn() {
        let config = SamplingConfig::new().with_temperature(100.0);
        assert_shares(
            &shares(config, &[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], &[]),
            &[0.0, 1.0, 0.0],
        );
    }

    #[test]
    fn a_distribution_is_what_is_drawn_from() {
        let config = SamplingConfig::new()
            .with_temperature(1.0)
            .with_repetition_penalty(2.0)
            .with_top_k(Some(4))
            .with_top_p(0.8);
        let logits = [16.0_f32, 8.0, 4.0, 2.0, 1.0].map(f32::ln);
        let mut sampler = config.init().unwrap();
        let found = sampler.distribution(&logits, &[0]).unwrap();
        let shares = [0, 1, 2, 3, 4].map(|id| found.probability(id));
        assert_shares(&shares, &[0.25, 0.5, 0.25, 0.0, 0.0]);
        sampler.observe(&[0]);
        assert_eq!(sampler.distribution(&logits, &[]).unwrap(), found);
        let mut greedy = SamplingConfig::new().init().unwrap();
        let found = greedy.distribution(&logits, &[]).unwrap();
        assert_eq!(found, Distribution::certain(0));
    }

    #[test]
    fn logits_without_an_answer_are_an_error() {
        for temperature in [0.0, 1.0] {
            let config = SamplingConfig::new().with_temperature(temperature);
            let mut sampler = config.init().unwrap();
            assert_eq!(
                sampler.sample(&[0.0, f32::NAN]).unwrap_err().to_string(),
                "logits: expected a finite number or -inf for token 1, found NaN"
            );
            assert_eq!(
                sampler.sample(&[f32::INFINITY, 0.0]),
                Err(SampleError::NotFinite {
                    id: 0,
                    value: f64::INFINITY
                })
            );
            assert_eq!(
                sampler.sample(&[f32::NEG_INFINITY; 3]),
                Err(SampleError::NoCandidate { n: 3 })
            );
            assert_eq!(sampler.sample(&[]), Err(SampleError::NoCandidate { n: 0 }));
        }
    }

    #[test]
    fn a_seed_gives_the_same_tokens_for_ever() {
        let draw = |seed| {
            let config = SamplingConfig::new().with_temperature(1.0).with_seed(seed);
            let mut sampler = config.init().unwrap();
            (0..12)
                .map(|_| sampler.sample(&[0.0; 10]).unwrap())
                .collect::<Vec<_>>()
        };
        // xoshiro256++ seeded through SplitMix64, as its authors publish them.
        assert_eq!(draw(42), [8u32, 3, 9, 7, 7, 5, 1, 6, 2, 9, 5, 8]);
        assert_ne!(draw(42), draw(43));
    }
}
