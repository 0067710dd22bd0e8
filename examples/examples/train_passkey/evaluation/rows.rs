use serde::Serialize;

use super::trials::Trial;

/// How often a policy found the key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// What the prompts were read with.
    pub policy: String,
    /// Tokens of a prompt.
    pub length: usize,
    /// Tokens that a query reads; all where there is none.
    pub budget: Option<usize>,
    /// Prompts.
    pub trials: usize,
    /// Prompts whose key came out.
    pub correct: usize,
    /// Those where it did not.
    pub misses: Vec<Miss>,
}

/// A key that was not found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Miss {
    /// Where it stood, from 0 to 1.
    pub depth: f64,
    /// The key.
    pub key: String,
    /// What the model said.
    pub answer: String,
}

impl Row {
    pub(super) fn new(policy: &str, length: usize, budget: Option<usize>) -> Self {
        Self {
            policy: policy.into(),
            length,
            budget,
            trials: 0,
            correct: 0,
            misses: Vec::new(),
        }
    }

    /// Counts what came of a prompt.
    pub(super) fn count(&mut self, trial: &Trial, is_right: bool, answer: String) {
        self.trials += 1;
        if is_right {
            self.correct += 1;
            return;
        }
        self.misses.push(Miss {
            depth: trial.depth,
            key: trial.key.clone(),
            answer,
        });
    }
}
