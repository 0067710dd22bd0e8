//! Steps of gradient descent through the phases of a schedule.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use burn::{
    grad_clipping::GradientClippingConfig,
    module::Module,
    optim::{AdamWConfig, GradientsParams, ModuleOptimizer},
    tensor::{Device, Tensor, TensorData, activation::log_softmax},
};
use quest_burn_models::{config::ModelConfig, model::CausalLm};
use serde::{Deserialize, Serialize};

use crate::{
    batch::{Batch, Feed},
    corpus::Vocabulary,
    model,
    network::{Sight, logits, one_hot, rows},
    schedule::Schedule,
};

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Steps done.
    pub step: u64,
    /// The phase of the next step; past the last one when the run is complete.
    pub phase: usize,
    /// Steps done in that phase.
    pub phase_step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training, over all of the run's parts.
    pub seconds: f64,
}

/// What the newest steps were like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Where the run is.
    #[serde(flatten)]
    pub progress: Progress,
    /// Name of the phase.
    pub name: String,
    /// Mean loss.
    pub loss: f64,
    /// Mean negative log-likelihood of the tokens of answers.
    pub answer_loss: f64,
    /// Share of the tokens of answers that are the most likely ones.
    pub accuracy: f64,
    /// Trained tokens per second.
    pub tokens_per_s: f64,
    /// Learning rate of the newest step.
    pub learning_rate: f64,
}

/// A model in training.
pub(crate) struct Trainer {
    /// The model, on a device that records gradients.
    pub model: CausalLm,
    /// The state of AdamW.
    pub optimizer: ModuleOptimizer,
    /// How far the run has come.
    pub progress: Progress,
    config: ModelConfig,
    schedule: Arc<Schedule>,
    feed: Feed,
    device: Device,
}

impl Trainer {
    /// Steps between reports. Checkpoints are made at reports, where nothing is unread.
    pub(crate) const REPORT: u64 = 10;

    /// A run at its beginning, all of it decided by `seed`.
    pub(crate) fn new(
        config: &ModelConfig,
        schedule: Schedule,
        vocabulary: Arc<Vocabulary>,
        seed: u64,
        device: &Device,
    ) -> Self {
        let device = device.clone().autodiff();
        let schedule = Arc::new(schedule);
        Self {
            model: model::weights(config, seed, &device),
            optimizer: AdamWConfig::new()
                .with_beta_2(0.98)
                .with_epsilon(1e-8)
                .with_weight_decay(0.01)
                .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
                .init(),
            progress: Progress::default(),
            config: config.clone(),
            feed: Feed::new(schedule.clone(), vocabulary, seed),
            schedule,
            device,
        }
    }

    /// Whether all phases are done.
    pub(crate) fn is_complete(&self) -> bool {
        self.progress.phase >= self.schedule.phases.len()
    }

    /// The model as it is now, without gradients.
    pub(crate) fn snapshot(&self) -> CausalLm {
        self.model.valid()
    }

    /// A model whose weights are not there yet, to load a record into.
    ///
    /// A record holds the weights of projections as a checkpoint does, and only weights that are
    /// not there yet are compared in that form.
    pub(crate) fn unwritten_model(&self) -> CausalLm {
        self.config.init(&self.device)
    }

    /// Does steps until the next report is due; none when the run is complete.
    ///
    /// # Errors
    ///
    /// When a batch cannot be made, the device fails, or the loss is not a number any more.
    pub(crate) fn report(&mut self) -> anyhow::Result<Option<Report>> {
        if self.is_complete() {
            return Ok(None);
        }
        let phase = self.schedule.phases[self.progress.phase].clone();
        let start = Instant::now();
        let (mut sums, mut answers, mut tokens) = (Vec::new(), 0, 0);
        let mut learning_rate = 0.0;
        // Reports fall on multiples of their distance in the phase, and on its end.
        let until = (self.progress.phase_step / Self::REPORT + 1) * Self::REPORT;
        while self.progress.phase_step < until.min(phase.steps) {
            let batch = self.feed.batch(self.progress.step, self.progress.phase)?;
            learning_rate =
                self.schedule
                    .learning_rate(&phase, self.progress.step, self.progress.phase_step);
            sums.push(self.step(&batch, learning_rate));
            answers += batch.n_answers();
            tokens += batch.rows * batch.tokens;
            self.progress.step += 1;
            self.progress.phase_step += 1;
        }
        let steps = sums.len();
        let sums = Tensor::cat(sums, 0).try_into_data()?;
        let sums = sums.try_to_vec::<f32>().context("sums in f32")?;
        let mean = |column: usize, count: usize| {
            let values = sums.iter().skip(column).step_by(3);
            values.map(|value| f64::from(*value)).sum::<f64>() / count.max(1) as f64
        };
        let seconds = start.elapsed().as_secs_f64();
        self.progress.tokens += tokens as u64;
        self.progress.seconds += seconds;
        let report = Report {
            name: phase.name.clone(),
            loss: mean(0, steps),
            answer_loss: mean(1, answers),
            accuracy: mean(2, answers),
            tokens_per_s: tokens as f64 / seconds,
            learning_rate,
            progress: self.progress,
        };
        anyhow::ensure!(
            report.loss.is_finite(),
            "loss: expected a finite number, found {} at step {}",
            report.loss,
            self.progress.step
        );
        let promoted = phase.promote_at.is_some_and(|at| report.accuracy >= at);
        if promoted || self.progress.phase_step >= phase.steps {
            self.progress.phase += 1;
            self.progress.phase_step = 0;
        }
        Ok(Some(report))
    }

    /// One step; the loss, and of answers the summed negative log-likelihood and the number of
    /// hits: `[3]`.
    fn step(&mut self, batch: &Batch, learning_rate: f64) -> Tensor<1> {
        let shape = [batch.rows, batch.tokens];
        let size = batch.rows * batch.tokens;
        let list = |values: &[f32]| {
            Tensor::<1>::from_data(TensorData::new(values.to_vec(), [size]), &self.device)
        };
        let ids = rows(&batch.inputs, shape, &self.device);
        let positions = rows(&batch.positions, shape, &self.device);
        let targets = rows(&batch.targets, shape, &self.device).reshape([size]);
        let (weights, answers) = (list(&batch.weights), list(&batch.answers));
        let windows = (0..self.config.n_layers)
            .map(|layer| {
                batch
                    .window
                    .filter(|_| layer < self.schedule.limited_layers)
            })
            .collect::<Vec<_>>();
        let sight = Sight::new(&windows, batch.tokens, &self.device);

        let logits = logits(&self.model, ids, positions, &sight);
        let [_, vocab_size] = logits.dims();
        let hits = logits.clone().inner().argmax(1).reshape([size]);
        let hits = hits.equal(targets.clone().inner()).float();
        let nll = log_softmax(logits, 1) * one_hot(targets, vocab_size);
        let nll = nll.sum_dim(1).neg().reshape([size]);
        let loss = (nll.clone() * weights.clone()).sum() / weights.sum();
        let answers = answers.inner();
        let sums = Tensor::cat(
            vec![
                loss.clone().inner(),
                (nll.inner() * answers.clone()).sum(),
                (hits * answers).sum(),
            ],
            0,
        );

        let gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self
            .optimizer
            .step(learning_rate, self.model.clone(), gradients);
        sums
    }
}

#[cfg(test)]
mod tests;
