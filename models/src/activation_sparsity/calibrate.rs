//! Thresholds from a text.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use burn::tensor::{DType, Tensor};
use quest_burn::policy::DensePolicy;
use quest_burn_linear::{InferenceLinear, InputObserver, LowRank, channel_norms};
use serde::Serialize;

use super::{
    ActivationSparsity, Factors, ModelShape, Projection, ProjectionSparsity, SparsityError,
    apply::fingerprint, histogram::Histogram,
};
use crate::{
    config::ModelConfig,
    generation::{GenerateError, check_ids, prefill},
    inference::InferenceLm,
    local::LocalModel,
    model::LanguageModel,
};

/// What thresholds are to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// Share of the channels of each projection that are skipped, from 0 to below 1.
    pub sparsity: f64,
    /// Rank of the factors that make up for what is skipped; 0 for none.
    pub rank: usize,
    /// Tokens of the text that are a context of their own.
    pub window: usize,
}

impl Calibration {
    /// Fewest tokens of a text: thresholds are quantiles.
    pub const MIN_TOKENS: usize = 64;
    /// Windows from which on the last one is held out.
    const MIN_WINDOWS: usize = 4;

    /// One for a sparsity, without factors, in windows of 512 tokens.
    pub fn new(sparsity: f64) -> Self {
        Self {
            sparsity,
            rank: 0,
            window: 512,
        }
    }

    /// Refuses what cannot be reached with a model.
    ///
    /// # Errors
    ///
    /// When the sparsity is no share, or the factors would be no smaller than the weights.
    pub fn check(&self, config: &ModelConfig) -> Result<(), SparsityError> {
        if !(0.0..1.0).contains(&self.sparsity) {
            return Err(SparsityError::Sparsity(self.sparsity));
        }
        let shape = ModelShape::of(config);
        let channels = Projection::ALL.into_iter().flat_map(|p| p.dims(&shape));
        let most = channels.min().unwrap_or(0) / 2;
        if self.rank > most {
            let found = self.rank;
            return Err(SparsityError::Rank { most, found });
        }
        Ok(())
    }
}

/// How well thresholds and factors do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalibrationReport {
    /// Tokens that thresholds were found on.
    pub tokens: usize,
    /// Share of the channels that are skipped in them, over all projections.
    pub skipped: f64,
    /// Tokens of the last window, where there are enough windows that it was held out.
    pub held_out_tokens: usize,
    /// Share of the channels that are skipped in those.
    pub held_out_skipped: Option<f64>,
    /// The mean of what the factors are off by, as shares of the norms of the weights.
    pub low_rank_error: Option<f64>,
}

/// Finds the thresholds by which a share of the channels is skipped on a text, and factors for what they skip.
///
/// `progress` is told the tokens that have gone through the model.
///
/// # Errors
///
/// When what is asked for cannot be reached, the model has experts, the text is too short or has ids that the
/// model does not know, or an activation is no finite number.
pub fn calibrate(
    model: InferenceLm,
    config: &ModelConfig,
    ids: &[u32],
    calibration: Calibration,
    progress: &mut dyn FnMut(usize),
) -> Result<(ActivationSparsity, CalibrationReport), SparsityError> {
    calibration.check(config)?;
    check_ids(ids, config.vocab_size)?;
    let least = Calibration::MIN_TOKENS;
    if ids.len() < least || calibration.window == 0 {
        let found = ids.len().min(calibration.window);
        return Err(SparsityError::TooShort { least, found });
    }
    let windows: Vec<&[u32]> = ids.chunks(calibration.window).collect();
    let is_held_out = windows.len() >= Calibration::MIN_WINDOWS;
    let (of_text, held_out) = windows.split_at(windows.len() - usize::from(is_held_out));

    let (model, scores) = Scores::of(model)?;
    let mut done = 0;
    let mut run = |windows: &[&[u32]]| {
        for window in windows {
            pass(&model, config, window)?;
            done += window.len();
            progress(done);
        }
        scores.take()
    };
    let of_text = run(of_text)?;
    let held_out = run(held_out)?;
    let thresholds: Vec<_> = (of_text.iter())
        .map(|histogram| histogram.threshold(calibration.sparsity))
        .collect();

    let held_out_tokens = if is_held_out {
        windows[windows.len() - 1].len()
    } else {
        0
    };
    let tokens = ids.len() - held_out_tokens;
    let (projections, low_rank_error) = projections(model, &thresholds, calibration.rank)?;
    let report = CalibrationReport {
        tokens,
        skipped: skipped(&of_text, &thresholds),
        held_out_tokens,
        held_out_skipped: is_held_out.then(|| skipped(&held_out, &thresholds)),
        low_rank_error,
    };
    let sparsity = ActivationSparsity {
        model: ModelShape::of(config),
        sparsity: calibration.sparsity,
        rank: calibration.rank,
        tokens,
        projections,
    };
    Ok((sparsity, report))
}

/// What is counted of the inputs of each projection, in the order of a pass.
struct Scores(Vec<Counted>);

struct Counted {
    layer: usize,
    projection: Projection,
    histogram: Arc<Mutex<Histogram>>,
}

impl Scores {
    /// The model, and the scores of what will go through it.
    fn of(model: InferenceLm) -> Result<(InferenceLm, Self), SparsityError> {
        let mut all = Vec::new();
        let model = model.map_projections(|layer, projection, linear| {
            let histogram = Arc::new(Mutex::new(Histogram::new()));
            all.push(Counted {
                layer,
                projection,
                histogram: histogram.clone(),
            });
            let norms = channel_norms(&linear.weight().dequantize());
            let observer = InputObserver::new(move |rows| count(&histogram, rows, &norms));
            Ok::<_, SparsityError>(linear.with_observer(observer))
        })?;
        Ok((model, Self(all)))
    }

    /// Those so far; others are counted from zero on.
    fn take(&self) -> Result<Vec<Histogram>, SparsityError> {
        let taken = self.0.iter().map(|counted| {
            let histogram = mem::replace(&mut *lock(&counted.histogram), Histogram::new());
            match histogram.is_spoilt {
                false => Ok(histogram),
                true => Err(SparsityError::NotFinite {
                    layer: counted.layer,
                    projection: counted.projection,
                }),
            }
        });
        taken.collect()
    }
}

fn lock(histogram: &Mutex<Histogram>) -> MutexGuard<'_, Histogram> {
    // Counting does not panic.
    histogram.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(histogram: &Mutex<Histogram>, rows: Tensor<2>, norms: &[f32]) {
    let values = rows.into_data_as::<f32>();
    let values = values.try_to_vec::<f32>().expect("read as f32");
    let mut histogram = lock(histogram);
    for row in values.chunks_exact(norms.len()) {
        for (x, norm) in row.iter().zip(norms) {
            histogram.add(x.abs() * norm);
        }
    }
}

/// Runs a context through all channels of the model.
fn pass(model: &InferenceLm, config: &ModelConfig, ids: &[u32]) -> Result<(), SparsityError> {
    let cache = config.cache(LocalModel::PAGE_SIZE, 1, ids.len());
    let cache = cache.init(&model.device(), model.dtype());
    let mut cache = cache.map_err(GenerateError::from)?;
    prefill(model, &mut cache, &DensePolicy, &[ids], ids.len(), None)?;
    Ok(())
}

/// Share of the channels that are skipped: the mean over the projections, weighted by their channels.
fn skipped(scores: &[Histogram], thresholds: &[f32]) -> f64 {
    let below = scores.iter().zip(thresholds);
    let below = below.map(|(scores, &threshold)| scores.below(threshold));
    let total = scores.iter().map(Histogram::total).sum::<u64>();
    below.sum::<u64>() as f64 / total.max(1) as f64
}

/// What is kept of each projection, and the mean error of the factors.
fn projections(
    model: InferenceLm,
    thresholds: &[f32],
    rank: usize,
) -> Result<(Vec<ProjectionSparsity>, Option<f64>), SparsityError> {
    let mut all = Vec::new();
    let mut errors = 0.0;
    model.map_projections(|_, _, linear| {
        let weight = linear.weight().dequantize();
        let low_rank = (rank > 0).then(|| LowRank::of(&weight, rank));
        all.push(ProjectionSparsity {
            threshold: thresholds[all.len()],
            fingerprint: fingerprint(&weight),
            low_rank: low_rank.map(|(factors, error)| {
                errors += f64::from(error);
                Factors::of(factors)
            }),
        });
        Ok::<InferenceLinear, SparsityError>(linear)
    })?;
    let error = (rank > 0).then(|| errors / all.len() as f64);
    Ok((all, error))
}

impl Factors {
    fn of(low_rank: LowRank) -> Self {
        let data = |factor: Tensor<2>| factor.cast(DType::F16).into_data();
        Self {
            down: data(low_rank.down),
            up: data(low_rank.up),
        }
    }
}
