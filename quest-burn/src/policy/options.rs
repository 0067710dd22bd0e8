//! Options of single policies, written `name:key=value,key=value`.

use core::{fmt, str::FromStr};

use thiserror::Error;

use crate::{digest::Deviations, pages::GroupRule};

/// A key that a policy's options have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyOption {
    /// How it is written.
    pub key: &'static str,
    /// What it says and which values it takes.
    pub about: &'static str,
}

/// An option that a policy does not have, or a value that it does not take.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionError {
    /// The policy has no options.
    #[error("expected no options, found `{0}`")]
    None(String),
    /// What is no `key=value`.
    #[error("expected key=value, found `{0}`")]
    NoValue(String),
    /// A key that the policy does not have.
    #[error("expected one of {expected}, found `{found}`")]
    Key {
        /// The keys that it has.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A key that is there already.
    #[error("expected `{0}` once, found it twice")]
    Repeated(&'static str),
    /// A value that the key does not take.
    #[error("{key}: expected {expected}, found `{found}`")]
    Value {
        /// The key.
        key: &'static str,
        /// What it takes.
        expected: String,
        /// What was given.
        found: String,
    },
}

/// A type that is the value of an option.
pub(super) trait OptionValue: FromStr + fmt::Display + PartialEq {
    /// Which values there are, for an error.
    fn expected() -> String;
}

impl OptionValue for core::num::NonZeroUsize {
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

impl OptionValue for Deviations {
    fn expected() -> String {
        "a number from 0 to 1000".to_owned()
    }
}

/// Parses one value, for the struct that [`policy_options`] makes.
pub(super) fn value<T: OptionValue>(key: &'static str, found: &str) -> Result<T, OptionError> {
    found.parse().map_err(|_| OptionError::Value {
        key,
        expected: T::expected(),
        found: found.to_owned(),
    })
}

/// Splits `key=value,key=value`.
pub(super) fn pairs(text: &str) -> impl Iterator<Item = Result<(&str, &str), OptionError>> {
    text.split(',').map(|pair| {
        let pair = pair.trim();
        let split = pair.split_once('=').map(|(k, v)| (k.trim(), v.trim()));
        split.ok_or_else(|| OptionError::NoValue(pair.to_owned()))
    })
}

/// The options of a policy: a struct with a default for each, read from and written as
/// `key=value,key=value`. Those that have their default are not written.
macro_rules! policy_options {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($field:ident: $type:ty = $default:expr, $key:literal, $about:literal;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name {
            $(#[doc = $about] pub $field: $type,)+
        }

        impl $name {
            /// What is taken where nothing is said.
            pub const DEFAULT: Self = Self { $($field: $default),+ };

            /// The keys.
            pub const OPTIONS: &'static [$crate::policy::PolicyOption] = &[
                $($crate::policy::PolicyOption { key: $key, about: $about }),+
            ];
        }

        impl Default for $name {
            fn default() -> Self {
                Self::DEFAULT
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::policy::OptionError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                use $crate::policy::{OptionError, options};
                let mut parsed = Self::DEFAULT;
                let mut seen = Vec::new();
                for pair in options::pairs(text) {
                    let (key, found) = pair?;
                    let key = match key {
                        $($key => {
                            parsed.$field = options::value($key, found)?;
                            $key
                        })+
                        _ => return Err(OptionError::Key {
                            expected: [$($key),+].join(", "),
                            found: key.to_owned(),
                        }),
                    };
                    if seen.contains(&key) {
                        return Err(OptionError::Repeated(key));
                    }
                    seen.push(key);
                }
                Ok(parsed)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let mut separator = "";
                $(if self.$field != Self::DEFAULT.$field {
                    write!(f, "{separator}{}={}", $key, self.$field)?;
                    separator = ",";
                })+
                let _ = separator;
                Ok(())
            }
        }
    };
}
pub(super) use policy_options;

/// An option's values by name.
macro_rules! named_values {
    (
        $(#[$meta:meta])*
        $type:ident { $($(#[$about:meta])* $value:ident = $name:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[$about])* $value,)+
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(match self { $(Self::$value => $name),+ })
            }
        }

        impl core::str::FromStr for $type {
            type Err = ();

            fn from_str(name: &str) -> Result<Self, ()> {
                match name {
                    $($name => Ok(Self::$value),)+
                    _ => Err(()),
                }
            }
        }

        impl $crate::policy::options::OptionValue for $type {
            fn expected() -> String {
                ["one of", &[$($name),+].join(", ")].join(" ")
            }
        }
    };
}
pub(super) use named_values;

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use super::*;

    named_values! {
        /// A colour.
        Colour {
            /// Not blue.
            Red = "red",
            /// Not red.
            Blue = "blue",
        }
    }

    policy_options! {
        /// Options to try.
        Sample {
            colour: Colour = Colour::Red, "colour", "red or blue";
            share: Share = Share::of_millionths(500_000), "share", "how much";
            pages: NonZeroUsize = NonZeroUsize::MIN, "least-pages", "how many";
        }
    }

    #[test]
    fn options_are_written_as_they_are_read_without_their_defaults() {
        for text in ["colour=blue,share=0.123456,least-pages=7", "share=1"] {
            assert_eq!(text.parse::<Sample>().unwrap().to_string(), text);
        }
        let spaced = " share = 0.5 , colour=blue".parse::<Sample>().unwrap();
        assert_eq!(spaced.to_string(), "colour=blue");
        assert_eq!(Sample::default().to_string(), "");
        let keys = Sample::OPTIONS.iter().map(|option| option.key);
        assert_eq!(keys.collect::<Vec<_>>(), ["colour", "share", "least-pages"]);
    }

    #[test]
    fn what_is_no_option_is_refused_with_what_there_is() {
        let error = |text: &str| text.parse::<Sample>().unwrap_err().to_string();
        assert_eq!(error("red"), "expected key=value, found `red`");
        assert_eq!(error(""), "expected key=value, found ``");
        assert_eq!(
            error("color=red"),
            "expected one of colour, share, least-pages, found `color`"
        );
        assert_eq!(
            error("colour=green"),
            "colour: expected one of red, blue, found `green`"
        );
        assert_eq!(
            error("share=1.5"),
            "share: expected a share above 0 and up to 1, such as 0.5, found `1.5`"
        );
        assert_eq!(
            error("least-pages=0"),
            "least-pages: expected a whole number from 1 on, found `0`"
        );
        assert_eq!(
            error("share=0.1,share=0.2"),
            "expected `share` once, found it twice"
        );
    }

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
