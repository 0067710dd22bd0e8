use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Standard deviations that a page's best key is taken to be above the mean of its keys, from 0 to 1000, in
/// millionths: it prints as it was written, and equal numbers are equal keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "f64", try_from = "f64")]
pub struct Deviations {
    millionths: u32,
}

impl Deviations {
    const ONE: f64 = 1e6;
    const MOST: f64 = 1000.0;

    /// So many whole ones.
    ///
    /// # Panics
    ///
    /// When there are more than 1000.
    pub const fn whole(n: u32) -> Self {
        assert!(n <= 1000, "standard deviations: at most 1000");
        Self {
            millionths: n * 1_000_000,
        }
    }

    /// As a number.
    pub fn value(self) -> f32 {
        f64::from(self) as f32
    }
}

impl From<Deviations> for f64 {
    fn from(deviations: Deviations) -> Self {
        Self::from(deviations.millionths) / Deviations::ONE
    }
}

impl fmt::Display for Deviations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(*self))
    }
}

/// What is no number of [`Deviations`].
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("standard deviations: expected a number from 0 to 1000, found `{0}`")]
pub struct DeviationsError(String);

impl TryFrom<f64> for Deviations {
    type Error = DeviationsError;

    fn try_from(value: f64) -> Result<Self, DeviationsError> {
        match (0.0..=Self::MOST).contains(&value) {
            true => Ok(Self {
                millionths: (value * Self::ONE).round() as u32,
            }),
            false => Err(DeviationsError(value.to_string())),
        }
    }
}

impl FromStr for Deviations {
    type Err = DeviationsError;

    fn from_str(text: &str) -> Result<Self, DeviationsError> {
        let wrong = || DeviationsError(text.to_owned());
        let value = text.parse::<f64>().map_err(|_| wrong())?;
        Self::try_from(value).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_print_as_they_were_written() {
        for text in ["0", "0.25", "1.5", "2", "1000", "0.000001"] {
            assert_eq!(text.parse::<Deviations>().unwrap().to_string(), text);
        }
        assert_eq!(Deviations::whole(2).value(), 2.0);
        assert_eq!("2.0".parse(), Ok(Deviations::whole(2)));
    }

    #[test]
    fn what_is_no_number_of_deviations_is_refused() {
        for bad in ["-1", "1000.1", "nan", "inf", "two", ""] {
            let error = bad.parse::<Deviations>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("standard deviations: expected a number from 0 to 1000, found `{bad}`")
            );
        }
    }
}
