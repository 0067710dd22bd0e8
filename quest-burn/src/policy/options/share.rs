use core::{fmt, str::FromStr};

use thiserror::Error;

/// A share above 0, up to 1, in millionths: it prints as it was written, and equal shares are equal
/// keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    millionths: u32,
}

impl Share {
    const ONE: u32 = 1_000_000;

    /// So many millionths.
    ///
    /// # Panics
    ///
    /// When there are none, or more than a million.
    pub const fn of_millionths(millionths: u32) -> Self {
        assert!(
            0 < millionths && millionths <= Self::ONE,
            "millionths of a share"
        );
        Self { millionths }
    }

    /// As a number.
    pub fn value(self) -> f64 {
        f64::from(self.millionths) / f64::from(Self::ONE)
    }

    /// The share of `n`, rounded down.
    pub fn floor(self, n: usize) -> usize {
        (n as u128 * u128::from(self.millionths) / u128::from(Self::ONE)) as usize
    }

    /// The share of `n`, rounded up.
    pub fn ceil(self, n: usize) -> usize {
        (n as u128 * u128::from(self.millionths)).div_ceil(u128::from(Self::ONE)) as usize
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

/// A text that is no share.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("share: expected a number above 0 and up to 1, found `{0}`")]
pub struct ShareError(String);

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let millionths = text.parse::<f64>().map(|v| v * f64::from(Self::ONE));
        match millionths {
            Ok(m) if m.round() >= 1.0 && m <= f64::from(Self::ONE) => Ok(Self {
                millionths: m.round() as u32,
            }),
            _ => Err(ShareError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact() {
        let share = |text: &str| text.parse::<Share>().unwrap();
        assert_eq!((share("0.1").floor(10), share("0.1").ceil(10)), (1, 1));
        assert_eq!((share("0.3").floor(11), share("0.3").ceil(11)), (3, 4));
        assert_eq!(share("1").floor(7), 7);
        for bad in [
            "0",
            "-0.1",
            "1.0000001",
            "nan",
            "inf",
            "",
            "1/2",
            "0.0000001",
        ] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }
}
