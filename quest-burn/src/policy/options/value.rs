//! What an option's value may be.

use core::{fmt, num::NonZeroUsize, str::FromStr};

use super::Share;
use crate::{FixedPoint, pages::GroupRule};

/// A type that is the value of an option.
pub(in crate::policy) trait OptionValue:
    FromStr + fmt::Display + PartialEq
{
    /// Which values there are, for an error.
    fn expected() -> String;
}

impl OptionValue for NonZeroUsize {
    fn expected() -> String {
        "a whole number from 1 on".to_owned()
    }
}

impl OptionValue for usize {
    fn expected() -> String {
        "a whole number".to_owned()
    }
}

impl OptionValue for u64 {
    fn expected() -> String {
        "a whole number".to_owned()
    }
}

impl OptionValue for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }
}

impl OptionValue for Share {
    fn expected() -> String {
        "a share above 0 and up to 1, such as 0.5".to_owned()
    }
}

/// What is given, or left to the settings that all policies share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Given<T>(pub Option<T>);

impl<T: fmt::Display> fmt::Display for Given<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => Ok(()),
        }
    }
}

impl<T: FromStr> FromStr for Given<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(|value| Self(Some(value)))
    }
}

impl<T: OptionValue> OptionValue for Given<T> {
    fn expected() -> String {
        T::expected()
    }
}

impl OptionValue for GroupRule {
    fn expected() -> String {
        "max or mean".to_owned()
    }
}

impl OptionValue for FixedPoint {
    fn expected() -> String {
        "a number from 0 to 1000".to_owned()
    }
}
