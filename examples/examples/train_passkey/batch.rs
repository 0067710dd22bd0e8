//! Sequences of a step, made on other threads while the device computes.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    corpus::{Document, Part, Vocabulary, VocabularyError},
    schedule::{Phase, Schedule},
};

/// Sequences of equal length; the lists hold one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    /// Sequences.
    pub rows: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Ids that are fed.
    pub inputs: Vec<i32>,
    /// Where they stand.
    pub positions: Vec<i32>,
    /// Ids that follow them.
    pub targets: Vec<i32>,
    /// Weights of the targets in the loss.
    pub weights: Vec<f32>,
    /// 1 where the target is part of an answer.
    pub answers: Vec<f32>,
    /// How far the limited layers see.
    pub window: Option<usize>,
}

impl Batch {
    /// The batch of a step: the same for the same seed and step.
    ///
    /// # Errors
    ///
    /// When the vocabulary cannot express a word.
    pub(crate) fn new(
        schedule: &Schedule,
        phase: &Phase,
        vocabulary: &Vocabulary,
        seed: u64,
        step: u64,
    ) -> Result<Self, VocabularyError> {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(step.wrapping_mul(0x9e37_79b9)));
        let size = phase.batch * phase.tokens;
        let mut batch = Self {
            rows: phase.batch,
            tokens: phase.tokens,
            inputs: Vec::with_capacity(size),
            positions: Vec::with_capacity(size),
            targets: Vec::with_capacity(size),
            weights: Vec::with_capacity(size),
            answers: Vec::with_capacity(size),
            window: phase.windows.choose(&mut rng).copied().flatten(),
        };
        for _ in 0..phase.batch {
            let document = phase
                .recipe
                .document(vocabulary, phase.tokens + 1, &mut rng)?;
            batch.push(&document, phase);
            let jumps = rng.random_bool(phase.jumps);
            let slack = schedule.positions.saturating_sub(phase.tokens);
            let slack = if jumps {
                rng.random_range(0..=slack)
            } else {
                0
            };
            let positions = positions(&document, phase.tokens, slack, &mut rng);
            batch.positions.extend(positions);
        }
        Ok(batch)
    }

    /// Targets that are part of an answer.
    pub(crate) fn n_answers(&self) -> usize {
        self.answers.iter().filter(|answer| **answer > 0.0).count()
    }

    fn push(&mut self, document: &Document, phase: &Phase) {
        let ids = document.ids.iter().map(|&id| id as i32);
        self.inputs.extend(ids.clone().take(phase.tokens));
        self.targets.extend(ids.skip(1));
        for part in &document.parts[1..] {
            let (weight, answer) = match part {
                Part::Text => (phase.text_weight, 0.0),
                Part::Copy => (phase.copy_weight, 0.0),
                Part::Answer => (1.0, 1.0),
            };
            self.weights.push(weight as f32);
            self.answers.push(answer);
        }
    }
}

/// Positions of the first `tokens` ids, which jump at some joints by `slack` in total.
///
/// A text of a few hundred tokens then teaches distances of thousands.
fn positions(document: &Document, tokens: usize, slack: usize, rng: &mut impl Rng) -> Vec<i32> {
    const MOST_JUMPS: usize = 8;
    let mut jumps = vec![0; tokens];
    let joints = document.joints.iter().filter(|joint| **joint < tokens);
    let joints = joints.copied().collect::<Vec<_>>();
    if slack > 0 && !joints.is_empty() {
        let n = rng.random_range(1..=MOST_JUMPS);
        let mut cuts = (1..n)
            .map(|_| rng.random_range(0..=slack))
            .collect::<Vec<_>>();
        cuts.extend([0, slack]);
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            jumps[*joints.choose(rng).expect("not empty")] += pair[1] - pair[0];
        }
    }
    let mut position = 0;
    let positions = jumps.iter().enumerate().map(|(index, jump)| {
        position += jump + usize::from(index > 0);
        position as i32
    });
    positions.collect()
}

/// The batches of a run, in order.
pub(crate) struct Feed {
    schedule: Arc<Schedule>,
    vocabulary: Arc<Vocabulary>,
    seed: u64,
    ahead: VecDeque<Pending>,
}

struct Pending {
    step: u64,
    phase: usize,
    batch: JoinHandle<Result<Batch, VocabularyError>>,
}

impl Feed {
    /// Batches that are made while one is used.
    const AHEAD: usize = 8;

    /// The batches that a seed stands for.
    pub(crate) fn new(schedule: Arc<Schedule>, vocabulary: Arc<Vocabulary>, seed: u64) -> Self {
        Self {
            schedule,
            vocabulary,
            seed,
            ahead: VecDeque::new(),
        }
    }

    /// The batch of a step, which belongs to a phase.
    ///
    /// # Errors
    ///
    /// When the vocabulary cannot express a word.
    pub(crate) fn batch(&mut self, step: u64, phase: usize) -> Result<Batch, VocabularyError> {
        // Batches were made for another phase when this one began early.
        let fits = |next: &Pending| (next.step, next.phase) == (step, phase);
        if !self.ahead.front().is_some_and(fits) {
            self.ahead.clear();
        }
        while self.ahead.len() < Self::AHEAD {
            self.begin(step + self.ahead.len() as u64, phase);
        }
        let next = self.ahead.pop_front().expect("filled above");
        next.batch.join().expect("making a batch does not panic")
    }

    fn begin(&mut self, step: u64, phase: usize) {
        let (schedule, vocabulary) = (self.schedule.clone(), self.vocabulary.clone());
        let seed = self.seed;
        let batch = thread::spawn(move || {
            Batch::new(&schedule, &schedule.phases[phase], &vocabulary, seed, step)
        });
        self.ahead.push_back(Pending { step, phase, batch });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn feed() -> Feed {
        static TRAINED: LazyLock<Arc<Vocabulary>> =
            LazyLock::new(|| Arc::new(Vocabulary::train(600, 1).unwrap()));
        Feed::new(Arc::new(Schedule::tiny()), TRAINED.clone(), 3)
    }

    #[test]
    fn targets_follow_inputs_and_answers_weigh_most() {
        let mut feed = feed();
        let batch = feed.batch(0, 0).unwrap();
        let size = batch.rows * batch.tokens;
        assert_eq!((batch.rows, batch.tokens), (4, 64));
        for list in [&batch.inputs, &batch.targets, &batch.positions] {
            assert_eq!(list.len(), size);
        }
        for row in 0..batch.rows {
            let range = row * batch.tokens..(row + 1) * batch.tokens;
            assert_eq!(
                batch.inputs[range.clone()][1..],
                batch.targets[range.clone()][..batch.tokens - 1]
            );
        }
        assert!(batch.n_answers() > 0);
        for (weight, answer) in batch.weights.iter().zip(&batch.answers) {
            assert_eq!(*weight == 1.0, *answer == 1.0);
        }
    }

    #[test]
    fn a_feed_gives_the_same_batch_after_a_change_of_phase() {
        let mut feed = feed();
        feed.batch(0, 0).unwrap();
        let batch = feed.batch(1, 1).unwrap();
        let fresh = Feed::new(feed.schedule.clone(), feed.vocabulary.clone(), 3)
            .batch(1, 1)
            .unwrap();
        assert_eq!(batch, fresh);
        assert_ne!(feed.batch(2, 1).unwrap(), batch);
    }

    #[test]
    fn positions_rise_and_jump_at_joints_only() {
        let document = Document {
            ids: vec![0; 41],
            parts: vec![Part::Text; 41],
            joints: vec![7, 20, 33],
        };
        let mut rng = StdRng::seed_from_u64(4);
        for slack in [0, 1, 900] {
            let positions = positions(&document, 40, slack, &mut rng);
            assert_eq!(positions[0], 0);
            assert_eq!(positions[39], 39 + slack as i32);
            for (index, pair) in positions.windows(2).enumerate() {
                let jump = pair[1] - pair[0] - 1;
                assert!(jump >= 0);
                assert!(jump == 0 || document.joints.contains(&(index + 1)));
            }
        }
    }
}
