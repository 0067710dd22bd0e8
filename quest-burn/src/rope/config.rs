use burn::config::Config;
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::f64::consts::{PI, TAU};
use thiserror::Error;

use super::Rope;

/// Configuration of the [rotary position embedding](Rope), with the meaning that Hugging Face
/// gives to `rope_parameters`.
#[derive(Config, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the wavelengths ("RoPE theta").
    #[config(default = 10000.0)]
    pub theta: f64,
    /// How the wavelengths are stretched beyond the context that the model was first trained on.
    #[config(default = "RopeScaling::Default")]
    pub scaling: RopeScaling,
    /// Channels of a head that are rotated, all of them when not given: as many of the first in either
    /// half of the head.
    pub rotary_dim: Option<usize>,
}

/// How the wavelengths of a [`RopeConfig`] are stretched.
#[derive(Config, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all, as in [RoFormer](https://arxiv.org/abs/2104.09864).
    Default,
    /// All alike ([position interpolation](https://arxiv.org/abs/2306.15595)).
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Long wavelengths fully, short ones not at all, as in Llama 3.1
    /// ([Llama 3](https://arxiv.org/abs/2407.21783)).
    Llama3 {
        /// By how much the long wavelengths are stretched.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context length before the stretching.
        original_max_positions: usize,
    },
    /// Channels that turn rarely over the original context fully, those that turn often not at
    /// all, and attention scores are scaled ([YaRN](https://arxiv.org/abs/2309.00071)).
    Yarn {
        /// By how much the slow channels are stretched.
        factor: f64,
        /// Context length before the stretching.
        original_max_positions: usize,
        /// Scale of queries and of keys; derived from the factor when absent.
        attention_factor: Option<f64>,
        /// Weight of `ln(factor)` in the numerator of the derived attention factor.
        mscale: Option<f64>,
        /// Weight of `ln(factor)` in its denominator; both or neither take part.
        mscale_all_dim: Option<f64>,
        /// Turns over the original context above which a channel is not stretched (usually 32).
        beta_fast: f64,
        /// Turns below which a channel is stretched fully (usually 1).
        beta_slow: f64,
        /// Whether the two limits are rounded outwards to whole channels (usually true).
        truncate: bool,
    },
    /// Each pair of channels by a factor of its own, as GGUF files have it.
    Factors {
        /// By how much, pair by pair.
        factors: Vec<f64>,
    },
}

/// A [`RopeConfig`] that cannot be used.
#[derive(Error, Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RopeError {
    /// Channels are rotated in pairs.
    #[error("RoPE: expected an even head dim of at least 2, found {0}")]
    HeadDim(usize),
    /// No more channels are rotated than a head has, and in pairs.
    #[error(
        "RoPE: expected an even number of rotated channels from 2 to {head_dim}, found {found}"
    )]
    RotaryDim {
        /// Channels of a head.
        head_dim: usize,
        /// Channels that are to be rotated.
        found: usize,
    },
    /// A scale of queries and keys would scale channels that are not rotated, too.
    #[error("RoPE: expected all channels to be rotated by a scaling of the attention, found some")]
    PartlyScaled,
    /// Wavelengths grow with the channel only if the base is above one.
    #[error("RoPE theta: expected a finite number above 1, found {0}")]
    Theta(f64),
    /// A value of the scaling is out of its range.
    #[error("RoPE scaling: expected {name} {expected}, found {found}")]
    Scaling {
        /// The value's name in [`RopeScaling`].
        name: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: f64,
    },
    /// The boundaries of short and long wavelengths are the wrong way round.
    #[error("RoPE scaling: expected high_freq_factor above low_freq_factor {low}, found {high}")]
    FrequencyFactors {
        /// `low_freq_factor`
        low: f64,
        /// `high_freq_factor`
        high: f64,
    },
    /// There are not as many factors as pairs of channels.
    #[error(
        "RoPE scaling: expected {expected} factors, one for each pair of channels, found {found}"
    )]
    Factors {
        /// Pairs of channels.
        expected: usize,
        /// Factors.
        found: usize,
    },
    /// The boundaries of fast and slow channels are the wrong way round.
    #[error("RoPE scaling: expected beta_fast of at least beta_slow {slow}, found {fast}")]
    Betas {
        /// `beta_fast`
        fast: f64,
        /// `beta_slow`
        slow: f64,
    },
}

impl RopeConfig {
    /// Checks that the values make sense for heads of `head_dim` channels.
    ///
    /// # Errors
    ///
    /// See [`RopeError`].
    pub fn validate(&self, head_dim: usize) -> Result<(), RopeError> {
        if head_dim < 2 || !head_dim.is_multiple_of(2) {
            return Err(RopeError::HeadDim(head_dim));
        }
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(RopeError::Theta(self.theta));
        }
        let rotary_dim = self.rotary_dim.unwrap_or(head_dim);
        if rotary_dim < 2 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            return Err(RopeError::RotaryDim {
                head_dim,
                found: rotary_dim,
            });
        }
        if rotary_dim < head_dim && self.scaling.attention_factor() != 1.0 {
            return Err(RopeError::PartlyScaled);
        }
        self.scaling.validate(rotary_dim)
    }

    /// Initializes the rotary embedding of heads of `head_dim` channels.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) fails.
    pub fn init(&self, head_dim: usize, device: &Device) -> Rope {
        if let Err(error) = self.validate(head_dim) {
            panic!("{error}");
        }
        let mut frequencies = self.inverse_frequencies(self.rotary_dim.unwrap_or(head_dim));
        // What does not turn is not rotated.
        frequencies.resize(head_dim / 2, 0.0);
        let frequencies = TensorData::from(frequencies.as_slice());
        Rope {
            inv_freq: Tensor::from_data(frequencies, (device, DType::F32)),
            attention_factor: self.scaling.attention_factor(),
        }
    }

    /// Radians per position of each pair of `head_dim` channels that are rotated.
    ///
    /// Checkpoints were trained with the roundings of single precision, so they are repeated
    /// here: powers are rounded once, and the steps after them are in f32.
    pub(super) fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let power = |pair: usize| self.theta.powf(2.0 * pair as f64 / head_dim as f64) as f32;
        let powers = (0..head_dim / 2).map(power);
        match self.scaling {
            RopeScaling::Default => powers.map(f32::recip).collect(),
            RopeScaling::Linear { factor } => powers.map(|p| p.recip() / factor as f32).collect(),
            RopeScaling::Factors { ref factors } => powers
                .zip(factors)
                .map(|(p, factor)| p.recip() / *factor as f32)
                .collect(),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                let context = original_max_positions as f32;
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                powers
                    .map(|p| {
                        let frequency = p.recip();
                        let stretched = frequency / factor as f32;
                        let turns = context / (TAU as f32 / frequency);
                        if turns < low {
                            stretched
                        } else if turns > high {
                            frequency
                        } else {
                            let smooth = (turns - low) / (high - low);
                            (1.0 - smooth) * stretched + smooth * frequency
                        }
                    })
                    .collect()
            }
            RopeScaling::Yarn {
                factor,
                original_max_positions,
                beta_fast,
                beta_slow,
                truncate,
                ..
            } => {
                // The (fractional) pair that makes `turns` turns over the original context.
                let pair_of = |turns: f64| {
                    let context = original_max_positions as f64;
                    head_dim as f64 * (context / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut first, mut last) = (pair_of(beta_fast), pair_of(beta_slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                // The upper limit is in channels, not in pairs, in the reference as well.
                (first, last) = (first.max(0.0), last.min(head_dim as f64 - 1.0));
                if first == last {
                    last += 0.001;
                }
                let ramp = |pair: usize| {
                    let ramp = (pair as f32 - first as f32) / (last - first) as f32;
                    ramp.clamp(0.0, 1.0)
                };
                powers
                    .enumerate()
                    .map(|(pair, p)| {
                        let kept = 1.0 - ramp(pair);
                        (factor as f32 * p).recip() * (1.0 - kept) + p.recip() * kept
                    })
                    .collect()
            }
        }
    }
}

impl RopeScaling {
    /// What queries and keys are multiplied by, beyond being rotated.
    pub fn attention_factor(&self) -> f64 {
        let Self::Yarn {
            factor,
            attention_factor,
            mscale,
            mscale_all_dim,
            ..
        } = *self
        else {
            return 1.0;
        };
        let magnitude = |weight: f64| 0.1 * weight * factor.ln() + 1.0;
        match (attention_factor, mscale, mscale_all_dim) {
            (Some(given), _, _) => given,
            // Zero means absent in the checkpoints that have these fields.
            (None, Some(part), Some(all)) if part != 0.0 && all != 0.0 => {
                magnitude(part) / magnitude(all)
            }
            _ => magnitude(1.0),
        }
    }

    fn validate(&self, head_dim: usize) -> Result<(), RopeError> {
        match *self {
            Self::Default => Ok(()),
            Self::Factors { ref factors } => {
                let (expected, found) = (head_dim / 2, factors.len());
                if found != expected {
                    return Err(RopeError::Factors { expected, found });
                }
                let mut factors = factors.iter();
                factors.try_for_each(|factor| positive("factors", *factor))
            }
            Self::Linear { factor } => at_least_one("factor", factor),
            Self::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions,
            } => {
                at_least_one("factor", factor)?;
                at_least_one("original_max_positions", original_max_positions as f64)?;
                positive("low_freq_factor", low)?;
                positive("high_freq_factor", high)?;
                if high > low {
                    Ok(())
                } else {
                    Err(RopeError::FrequencyFactors { low, high })
                }
            }
            Self::Yarn {
                factor,
                original_max_positions,
                attention_factor,
                beta_fast: fast,
                beta_slow: slow,
                mscale,
                mscale_all_dim,
                truncate: _,
            } => {
                at_least_one("factor", factor)?;
                at_least_one("original_max_positions", original_max_positions as f64)?;
                positive("beta_fast", fast)?;
                positive("beta_slow", slow)?;
                if let Some(given) = attention_factor {
                    positive("attention_factor", given)?;
                }
                for (name, weight) in [("mscale", mscale), ("mscale_all_dim", mscale_all_dim)] {
                    if let Some(found) = weight.filter(|w| !w.is_finite() || *w < 0.0) {
                        let expected = "as a finite number of at least 0";
                        return Err(RopeError::Scaling {
                            name,
                            expected,
                            found,
                        });
                    }
                }
                if fast >= slow {
                    Ok(())
                } else {
                    Err(RopeError::Betas { fast, slow })
                }
            }
        }
    }
}

fn at_least_one(name: &'static str, found: f64) -> Result<(), RopeError> {
    if found.is_finite() && found >= 1.0 {
        return Ok(());
    }
    Err(RopeError::Scaling {
        name,
        expected: "as a finite number of at least 1",
        found,
    })
}

fn positive(name: &'static str, found: f64) -> Result<(), RopeError> {
    if found.is_finite() && found > 0.0 {
        return Ok(());
    }
    Err(RopeError::Scaling {
        name,
        expected: "as a finite number above 0",
        found,
    })
}
