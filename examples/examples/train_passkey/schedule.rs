//! What is learnt when: from short, dense texts to long, sparse ones.

use serde::{Deserialize, Serialize};

use crate::corpus::Recipe;

/// A stretch of training on sequences of one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    /// What the logs call it.
    pub name: String,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Steps at most.
    pub steps: u64,
    /// The accuracy of answers, over one report, at which the phase ends early.
    pub promote_at: Option<f64>,
    /// Learning rate at the first step.
    pub learning_rate: f64,
    /// Learning rate at the last step; linear in between.
    pub final_learning_rate: f64,
    /// How far the first layers see, one of these at random each step; without limit where `None`.
    pub windows: Vec<Option<usize>>,
    /// Share of sequences whose positions jump, so that short texts teach long distances.
    pub jumps: f64,
    /// Weight of ordinary text in the loss; answers weigh 1.
    pub text_weight: f64,
    /// Weight of repeated text in the loss.
    pub copy_weight: f64,
    /// What the texts are.
    pub recipe: Recipe,
}

/// The phases, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    /// Steps over which the learning rate rises from zero.
    pub warmup: u64,
    /// Positions that sequences jump to at most.
    pub positions: usize,
    /// First layers whose sight is limited by [`Phase::windows`].
    ///
    /// Quest leaves them dense, so what is to be found far back must not be found there.
    pub limited_layers: usize,
    /// The phases.
    pub phases: Vec<Phase>,
}

impl Schedule {
    /// Up to sequences of 16K tokens, on one GPU.
    pub(crate) fn standard() -> Self {
        let recipe = |filler| Recipe {
            passkey: 0.25,
            facts: 0.5,
            copies: 0.2,
            filler,
        };
        let near = Some(32);
        Self {
            warmup: 200,
            positions: 32_768,
            limited_layers: 2,
            phases: vec![
                Phase {
                    name: "associate".into(),
                    tokens: 256,
                    batch: 32,
                    steps: 6000,
                    promote_at: Some(0.985),
                    learning_rate: 1.5e-3,
                    final_learning_rate: 1.5e-3,
                    windows: vec![near],
                    jumps: 0.5,
                    text_weight: 0.1,
                    copy_weight: 0.3,
                    recipe: recipe(0.3),
                },
                Phase {
                    name: "scatter".into(),
                    tokens: 1024,
                    batch: 8,
                    steps: 2500,
                    promote_at: Some(0.993),
                    learning_rate: 1.2e-3,
                    final_learning_rate: 1.2e-3,
                    windows: vec![near, near, Some(256)],
                    jumps: 0.5,
                    text_weight: 0.1,
                    copy_weight: 0.3,
                    recipe: recipe(1.0),
                },
                Phase {
                    name: "stretch".into(),
                    tokens: 4096,
                    batch: 2,
                    steps: 1500,
                    promote_at: Some(0.996),
                    learning_rate: 7.5e-4,
                    final_learning_rate: 7.5e-4,
                    windows: vec![near, Some(256), Some(1024), None],
                    jumps: 0.5,
                    text_weight: 0.05,
                    copy_weight: 0.2,
                    recipe: recipe(2.5),
                },
                Phase {
                    name: "settle".into(),
                    tokens: 16_384,
                    batch: 1,
                    steps: 400,
                    promote_at: None,
                    learning_rate: 5e-4,
                    final_learning_rate: 2e-5,
                    windows: vec![None, None, None, Some(256)],
                    jumps: 0.3,
                    text_weight: 0.03,
                    copy_weight: 0.1,
                    recipe: recipe(6.0),
                },
            ],
        }
    }

    /// A few steps on short sequences, for a machine without a GPU.
    pub(crate) fn tiny() -> Self {
        let recipe = Recipe {
            passkey: 0.25,
            facts: 0.5,
            copies: 0.2,
            filler: 0.3,
        };
        Self {
            warmup: 10,
            positions: 1024,
            limited_layers: 1,
            phases: vec![
                Phase {
                    name: "associate".into(),
                    tokens: 64,
                    batch: 4,
                    steps: 60,
                    promote_at: Some(0.9),
                    learning_rate: 3e-3,
                    final_learning_rate: 3e-3,
                    windows: vec![Some(16)],
                    jumps: 0.5,
                    text_weight: 0.3,
                    copy_weight: 0.3,
                    recipe: recipe.clone(),
                },
                Phase {
                    name: "settle".into(),
                    tokens: 128,
                    batch: 2,
                    steps: 20,
                    promote_at: None,
                    learning_rate: 2e-3,
                    final_learning_rate: 1e-4,
                    windows: vec![None, Some(32)],
                    jumps: 0.3,
                    text_weight: 0.3,
                    copy_weight: 0.3,
                    recipe,
                },
            ],
        }
    }

    /// The learning rate of a step, `step` counted over the whole run and `phase_step` in `phase`.
    pub(crate) fn learning_rate(&self, phase: &Phase, step: u64, phase_step: u64) -> f64 {
        let done = phase_step as f64 / phase.steps.max(1) as f64;
        let rate =
            phase.learning_rate + done.min(1.0) * (phase.final_learning_rate - phase.learning_rate);
        let warm = (step + 1) as f64 / self.warmup.max(1) as f64;
        rate * warm.min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls_over_its_phase() {
        let schedule = Schedule::tiny();
        let phase = &schedule.phases[1];
        assert_eq!(schedule.learning_rate(phase, 0, 0), 2e-4);
        assert_eq!(schedule.learning_rate(phase, 60, 0), 2e-3);
        let last = schedule.learning_rate(phase, 80, 20);
        assert!((last - 1e-4).abs() < 1e-12);
    }

    #[test]
    fn a_schedule_survives_json() {
        let schedule = Schedule::standard();
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule);
    }
}
