use std::path::Path;

use super::SamplingConfig;
use crate::{
    config::{ModelConfig, fields::Fields},
    error::ModelError,
};

/// How a checkpoint asks to be sampled: what its `generation_config.json` says.
///
/// As in transformers, tokens are drawn only where `do_sample` is true, then at temperature 1 where
/// the file names none. Filters that the file does not name are off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// None where the most probable token is to be taken.
    pub temperature: Option<f64>,
    /// Keeps the `k` most probable tokens.
    pub top_k: Option<usize>,
    /// Keeps the most probable tokens until their probabilities add up to this.
    pub top_p: Option<f64>,
    /// Keeps tokens of at least this share of the highest probability.
    pub min_p: Option<f64>,
    /// Makes tokens less probable that occurred before. It counts for greedy decoding too.
    pub repetition_penalty: Option<f64>,
}

impl SamplingDefaults {
    /// Reads `generation_config.json` of a checkpoint's folder, if it is there.
    ///
    /// # Errors
    ///
    /// When the file is not JSON, a field has the wrong type, or a value cannot be used. The message
    /// names the file and the field.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join(ModelConfig::GENERATION_FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        Self::read(&Fields::read(&path)?)
    }

    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let repetition_penalty = fields.optional("repetition_penalty")?;
        let defaults = match fields.optional("do_sample")?.unwrap_or(false) {
            false => Self {
                repetition_penalty,
                ..Self::default()
            },
            true => Self {
                temperature: Some(fields.optional("temperature")?.unwrap_or(1.0)),
                // Transformers and others say "all" as zero or as minus one.
                top_k: match fields.optional::<i64>("top_k")? {
                    Some(k) if k > 0 => Some(k as usize),
                    _ => None,
                },
                top_p: fields.optional("top_p")?,
                min_p: fields.optional("min_p")?,
                repetition_penalty,
            },
        };
        let checked = defaults.config().validate();
        checked.map_err(|problem| {
            let problem = problem.to_string();
            let (name, problem) = problem.split_once(": ").unwrap_or(("", &problem));
            fields.invalid(&name.replace([' ', '-'], "_"), problem.to_owned())
        })?;
        Ok(defaults.without_neutral())
    }

    /// What changes nothing is not worth a word.
    fn without_neutral(mut self) -> Self {
        self.top_p = self.top_p.filter(|p| *p != 1.0);
        self.min_p = self.min_p.filter(|p| *p != 0.0);
        self.repetition_penalty = self.repetition_penalty.filter(|penalty| *penalty != 1.0);
        self
    }

    /// Whether the checkpoint asks for nothing but the most probable token.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// As a configuration, at seed 0.
    pub fn config(&self) -> SamplingConfig {
        let plain = SamplingConfig::new();
        SamplingConfig {
            temperature: self.temperature.unwrap_or(plain.temperature),
            top_k: self.top_k,
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(plain.repetition_penalty),
            seed: plain.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    fn read(config: Value) -> Result<SamplingDefaults, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ModelConfig::GENERATION_FILE);
        fs::write(path, config.to_string()).unwrap();
        SamplingDefaults::from_dir(dir.path())
    }

    #[test]
    fn a_checkpoint_that_asks_for_nothing_is_greedy() {
        let dir = tempfile::tempdir().unwrap();
        let absent = SamplingDefaults::from_dir(dir.path()).unwrap();
        assert!(absent.is_plain() && absent.config().is_greedy());
        for config in [
            json!({ "eos_token_id": 2 }),
            json!({ "do_sample": false, "temperature": 0.7, "top_p": 0.9, "top_k": 20 }),
            json!({ "do_sample": null, "repetition_penalty": 1.0 }),
        ] {
            assert!(read(config).unwrap().is_plain());
        }
    }

    #[test]
    fn what_a_checkpoint_asks_for_is_read() {
        let asked = read(json!({
            "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05,
            "repetition_penalty": 1.05,
        }));
        assert_eq!(
            asked.unwrap().config(),
            SamplingConfig::new()
                .with_temperature(0.6)
                .with_top_k(Some(20))
                .with_top_p(0.95)
                .with_min_p(0.05)
                .with_repetition_penalty(1.05)
        );
        let neutral = read(json!({ "do_sample": true, "top_k": 0, "top_p": 1.0, "min_p": 0 }));
        let drawn = SamplingConfig::new().with_temperature(1.0);
        assert_eq!(neutral.unwrap().config(), drawn);
        let greedy = read(json!({ "do_sample": false, "repetition_penalty": 1.1 })).unwrap();
        assert!(greedy.config().is_greedy() && !greedy.is_plain());
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        for (config, message) in [
            (
                json!({ "do_sample": "yes" }),
                "field `do_sample`: invalid type",
            ),
            (
                json!({ "do_sample": true, "temperature": -1 }),
                "field `temperature`: expected a finite number of at least 0, found -1",
            ),
            (
                json!({ "do_sample": true, "top_p": 2 }),
                "field `top_p`: expected a number above 0",
            ),
            (
                json!({ "repetition_penalty": 0 }),
                "field `repetition_penalty`: expected a finite",
            ),
        ] {
            let error = read(config).unwrap_err().to_string();
            assert!(error.contains("generation_config.json"), "{error}");
            assert!(error.contains(message), "{error}");
        }
    }
}
