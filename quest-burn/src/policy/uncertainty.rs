//! When a model is uncertain: the entropies of its last distributions are high, or differ much.

use core::{fmt, str::FromStr};

use thiserror::Error;

use super::options::OptionValue;

/// A level that entropies, in nats, or their variance may exceed, in thousandths: it prints as it was written,
/// and equal levels are equal keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Level {
    thousandths: u32,
}

impl Level {
    const ONE: f64 = 1000.0;
    /// The highest, far above what a vocabulary can give.
    const MOST: f64 = 1000.0;

    /// So many thousandths.
    pub const fn of_thousandths(thousandths: u32) -> Self {
        Self { thousandths }
    }

    /// As a number.
    pub fn value(self) -> f64 {
        f64::from(self.thousandths) / Self::ONE
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

/// A text that is no level.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("level: expected a number from 0 to 1000, found `{0}`")]
pub struct LevelError(String);

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        match text.parse::<f64>() {
            Ok(value) if (0.0..=Self::MOST).contains(&value) => Ok(Self {
                thousandths: (value * Self::ONE).round() as u32,
            }),
            _ => Err(LevelError(text.to_owned())),
        }
    }
}

impl OptionValue for Level {
    fn expected() -> String {
        "a number from 0 to 1000".to_owned()
    }
}

/// Whether the mean of some entropies, or their variance, is above its level. Of none, neither is.
pub(super) fn is_uncertain(entropies: &[f32], mean_above: Level, variance_above: Level) -> bool {
    if entropies.is_empty() {
        return false;
    }
    let n = entropies.len() as f64;
    let values = || entropies.iter().map(|&entropy| f64::from(entropy));
    let mean = values().sum::<f64>() / n;
    let variance = values().map(|h| (h - mean).powi(2)).sum::<f64>() / n;
    mean > mean_above.value() || variance > variance_above.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_or_changing_entropies_are_uncertain() {
        let uncertain = |entropies: &[f32]| {
            let [mean, variance] = [1500, 250].map(Level::of_thousandths);
            is_uncertain(entropies, mean, variance)
        };
        assert!(!uncertain(&[1.0; 8]));
        // Mean 1, variance 1.
        assert!(uncertain(&[0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0]));
        assert!(uncertain(&[2.0; 8]));
        // Mean 1.5 and variance 0.25: at both levels, above none.
        assert!(!uncertain(&[1.0, 2.0]));
        assert!(!uncertain(&[]));
    }

    #[test]
    fn levels_are_read_and_refused() {
        for text in ["0", "2.5", "1000"] {
            assert_eq!(text.parse::<Level>().unwrap().to_string(), text);
        }
        for text in ["-1", "1001", "NaN", "high"] {
            let error = text.parse::<Level>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("level: expected a number from 0 to 1000, found `{text}`")
            );
        }
    }
}
