use std::{path::PathBuf, str::FromStr};

use burn::tensor::Device;
use quest_burn_models::{
    ModelError,
    activation_sparsity::{ActivationSparsity, Calibration, calibrate},
    config::ModelConfig,
    inference::InferenceLm,
    local::LocalModelBuilder,
};

use crate::BenchError;

/// Which input channels decoded tokens skip.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Skipping {
    /// A share of them, by thresholds found on random tokens: which ones they are does not matter to the speed.
    Share(f64),
    /// Those that were calibrated, by the file.
    File(PathBuf),
}

impl FromStr for Skipping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(share) if (0.0..1.0).contains(&share) => Ok(Self::Share(share)),
            Ok(_) => Err(format!(
                "expected a share of the channels from 0 to below 1, or a file, found {text}"
            )),
            Err(_) => Ok(Self::File(text.into())),
        }
    }
}

impl Skipping {
    /// Of a checkpoint.
    pub(super) fn of_checkpoint(
        &self,
        model: &LocalModelBuilder,
        device: &Device,
    ) -> Result<ActivationSparsity, BenchError> {
        match self {
            Self::File(file) => Ok(ActivationSparsity::read(file).map_err(ModelError::from)?),
            Self::Share(share) => {
                let ids = tokens(model.config());
                let (model, calibration) = (model.clone(), calibration(*share));
                let (sparsity, _) = model.calibrate(device, &ids, calibration, &mut |_| ())?;
                Ok(sparsity)
            }
        }
    }

    /// The share, which models with random weights need.
    pub(super) fn share(&self) -> Result<f64, BenchError> {
        match self {
            Self::Share(share) => Ok(*share),
            Self::File(file) => Err(BenchError::Option {
                option: "--activation-sparsity",
                expected: "a share of the channels, as no --model is given".into(),
                found: file.display().to_string(),
            }),
        }
    }

    /// Of a model with random weights.
    pub(super) fn of_random(
        &self,
        model: InferenceLm,
        config: &ModelConfig,
    ) -> Result<ActivationSparsity, BenchError> {
        let (ids, calibration) = (tokens(config), calibration(self.share()?));
        let calibrated = calibrate(model, config, &ids, calibration, &mut |_| ());
        let (sparsity, _) = calibrated.map_err(ModelError::from)?;
        Ok(sparsity)
    }
}

fn calibration(share: f64) -> Calibration {
    Calibration {
        window: Calibration::MIN_TOKENS,
        ..Calibration::new(share)
    }
}

/// Tokens without a pattern.
fn tokens(config: &ModelConfig) -> Vec<u32> {
    let ids = (0..Calibration::MIN_TOKENS as u32).map(|i| {
        // The upper bits of a hash.
        let hash = i.wrapping_add(1).wrapping_mul(0x9e37_79b1);
        (hash >> 8) % config.vocab_size as u32
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_share_and_all_else_a_file() {
        let of = |text: &str| text.parse::<Skipping>();
        assert_eq!(of("0.5"), Ok(Skipping::Share(0.5)));
        assert_eq!(of("0"), Ok(Skipping::Share(0.0)));
        let file = Skipping::File("half.safetensors".into());
        assert_eq!(of("half.safetensors"), Ok(file));
        for text in ["1", "-0.5", "NaN"] {
            let expected = "expected a share of the channels from 0 to below 1, or a file, found ";
            assert_eq!(of(text), Err(format!("{expected}{text}")));
        }
    }
}
