use std::collections::HashMap;

use quest_burn_models::sampling::{Sampler, TokenMask};

use crate::{Adjustments, answer::Token};

/// Chooses the tokens of one answer from the model's logits.
#[derive(Debug)]
pub(crate) struct Chooser {
    sampler: Sampler,
    adjustments: Adjustments,
    logprobs: Option<usize>,
    mask: Option<Box<dyn TokenMask>>,
    /// How often the answer has each token, where that counts.
    counts: HashMap<u32, u32>,
}

impl Chooser {
    /// For an answer to a prompt that the sampler has observed.
    pub(crate) fn new(
        sampler: Sampler,
        adjustments: Adjustments,
        logprobs: Option<usize>,
        mask: Option<Box<dyn TokenMask>>,
    ) -> Self {
        Self {
            sampler,
            adjustments,
            logprobs,
            mask,
            counts: HashMap::new(),
        }
    }

    /// Whether the token of the highest logit is taken, and nothing else is asked of the logits.
    pub(crate) fn takes_most_probable(&self) -> bool {
        self.sampler.is_argmax()
            && self.adjustments == Adjustments::default()
            && self.logprobs.is_none()
            && self.mask.is_none()
    }

    /// The next token, from the logits of the vocabulary, which it adjusts. `stop_ids` end the answer and
    /// are no part of what a grammar is told.
    pub(crate) fn choose(&mut self, logits: &mut [f32], stop_ids: &[u32]) -> Result<Token, String> {
        let logprobs = self.logprobs.map(|n| Logprobs::new(logits, n));
        self.adjust(logits);
        let id = match &mut self.mask {
            None => self.sampler.sample(logits).map_err(|e| e.to_string())?,
            Some(mask) => {
                let chosen = self.sampler.sample_masked(logits, &mut **mask, stop_ids);
                chosen.map_err(|e| e.to_string())?
            }
        };
        self.sampler.observe(&[id]);
        if self.counts_tokens() {
            *self.counts.entry(id).or_default() += 1;
        }
        Ok(Token {
            id,
            logprob: logprobs.as_ref().map(|logprobs| logprobs.of(id)),
            top: logprobs.map(|logprobs| logprobs.top).unwrap_or_default(),
            reads: Vec::new(),
        })
    }

    /// Whether a grammar is followed, whose masks take time.
    pub(crate) fn has_mask(&self) -> bool {
        self.mask.is_some()
    }

    /// Whether nothing may follow what was chosen.
    pub(crate) fn is_complete(&self) -> bool {
        self.mask.as_ref().is_some_and(|mask| mask.is_complete())
    }

    fn counts_tokens(&self) -> bool {
        self.adjustments.presence_penalty != 0.0 || self.adjustments.frequency_penalty != 0.0
    }

    fn adjust(&self, logits: &mut [f32]) {
        let Adjustments {
            presence_penalty,
            frequency_penalty,
            bias,
        } = &self.adjustments;
        for (&id, &count) in &self.counts {
            logits[id as usize] -= presence_penalty + frequency_penalty * count as f32;
        }
        for &(id, bias) in bias {
            logits[id as usize] += bias;
        }
    }
}

/// Log-probabilities by the model.
struct Logprobs {
    logits: Vec<f32>,
    /// Logarithm of the sum of exponentials of the logits.
    total: f64,
    top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Of these logits, with the `n` most probable tokens.
    fn new(logits: &[f32], n: usize) -> Self {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps = logits.iter().map(|&l| f64::from(l - highest).exp());
        let total = f64::from(highest) + exps.sum::<f64>().ln();
        let mut logprobs = Self {
            logits: logits.to_vec(),
            total,
            top: Vec::new(),
        };
        let mut ids = (0..logits.len() as u32).collect::<Vec<_>>();
        let order = |a: &u32, b: &u32| {
            let [a_logit, b_logit] = [a, b].map(|&id| logits[id as usize]);
            b_logit.total_cmp(&a_logit).then(a.cmp(b))
        };
        let n = n.min(ids.len());
        if n < ids.len() {
            ids.select_nth_unstable_by(n, order);
            ids.truncate(n);
        }
        ids.sort_unstable_by(order);
        logprobs.top = ids.into_iter().map(|id| (id, logprobs.of(id))).collect();
        logprobs
    }

    fn of(&self, id: u32) -> f32 {
        (f64::from(self.logits[id as usize]) - self.total) as f32
    }
}

#[cfg(test)]
mod tests {
    use quest_burn_models::sampling::SamplingConfig;

    use super::*;

    fn chooser(adjustments: Adjustments) -> Chooser {
        Chooser::new(
            SamplingConfig::new().init().unwrap(),
            adjustments,
            Some(2),
            None,
        )
    }

    fn chosen(chooser: &mut Chooser, logits: &[f32]) -> Result<Token, String> {
        chooser.choose(&mut logits.to_vec(), &[])
    }

    #[test]
    fn log_probabilities_are_the_model_s_whatever_is_adjusted() {
        let logits = [0.5, 0.3, 0.2].map(|p: f32| p.ln() + 2.0);
        let mut chooser = chooser(Adjustments {
            bias: vec![(2, 9.0)],
            ..Adjustments::default()
        });
        let token = chosen(&mut chooser, &logits).unwrap();
        assert_eq!(token.id, 2);
        assert!((token.logprob.unwrap() - 0.2f32.ln()).abs() < 1e-6);
        assert_eq!(token.top.iter().map(|t| t.0).collect::<Vec<_>>(), [0, 1]);
        assert!((token.top[1].1 - 0.3f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn penalties_count_what_the_answer_has() {
        let adjustments = Adjustments {
            presence_penalty: 1.0,
            frequency_penalty: 0.5,
            ..Adjustments::default()
        };
        let mut chooser = chooser(adjustments);
        let mut next = || chosen(&mut chooser, &[3.0, 1.6, 0.0]).unwrap().id;
        // 3.0 -> 1.5 -> 1.0 with each time that token 0 was chosen.
        assert_eq!([next(), next(), next(), next()], [0, 1, 0, 0]);
    }
}
