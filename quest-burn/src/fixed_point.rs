use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A number from 0 to 1000 in millionths: it prints as it was written, and equal numbers are equal keys of
/// kernels and of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "f64", try_from = "f64")]
pub struct FixedPoint {
    millionths: u32,
}

impl FixedPoint {
    const ONE: u32 = 1_000_000;
    const MAX: f64 = 1000.0;

    /// A whole number.
    ///
    /// # Panics
    ///
    /// When it is above 1000.
    pub const fn whole(n: u32) -> Self {
        assert!(n <= 1000, "a number from 0 to 1000");
        Self {
            millionths: n * Self::ONE,
        }
    }

    /// So many millionths.
    ///
    /// # Panics
    ///
    /// When it is above 1000.
    pub const fn of_millionths(millionths: u32) -> Self {
        assert!(millionths <= 1000 * Self::ONE, "a number from 0 to 1000");
        Self { millionths }
    }

    /// So many times `n`, rounded down.
    pub fn floor_of(self, n: usize) -> usize {
        (n as u128 * u128::from(self.millionths) / u128::from(Self::ONE)) as usize
    }

    /// As a number in single precision.
    pub fn to_f32(self) -> f32 {
        f64::from(self) as f32
    }
}

impl From<FixedPoint> for f64 {
    fn from(number: FixedPoint) -> Self {
        Self::from(number.millionths) / Self::from(FixedPoint::ONE)
    }
}

impl fmt::Display for FixedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(*self))
    }
}

/// What is no [`FixedPoint`].
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("expected a number from 0 to 1000, found `{0}`")]
pub struct FixedPointError(String);

impl TryFrom<f64> for FixedPoint {
    type Error = FixedPointError;

    fn try_from(value: f64) -> Result<Self, FixedPointError> {
        match (0.0..=Self::MAX).contains(&value) {
            true => Ok(Self {
                millionths: (value * f64::from(Self::ONE)).round() as u32,
            }),
            false => Err(FixedPointError(value.to_string())),
        }
    }
}

impl FromStr for FixedPoint {
    type Err = FixedPointError;

    fn from_str(text: &str) -> Result<Self, FixedPointError> {
        let wrong = || FixedPointError(text.to_owned());
        let value = text.parse::<f64>().map_err(|_| wrong())?;
        Self::try_from(value).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_they_were_written() {
        for text in ["0", "0.25", "1.5", "2", "1000", "0.000001"] {
            assert_eq!(text.parse::<FixedPoint>().unwrap().to_string(), text);
        }
        assert_eq!(FixedPoint::whole(2).to_f32(), 2.0);
        assert_eq!("2.0".parse(), Ok(FixedPoint::whole(2)));
    }

    #[test]
    fn products_are_rounded_down_from_what_was_written() {
        let product = |text: &str, n| text.parse::<FixedPoint>().unwrap().floor_of(n);
        assert_eq!((product("0.29", 100), product("0.3", 7)), (29, 2));
        assert_eq!(FixedPoint::of_millionths(300_000).to_string(), "0.3");
    }

    #[test]
    fn what_is_no_number_from_0_to_1000_is_refused() {
        for bad in ["-1", "1000.1", "nan", "inf", "two", ""] {
            let error = bad.parse::<FixedPoint>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("expected a number from 0 to 1000, found `{bad}`")
            );
        }
    }
}
