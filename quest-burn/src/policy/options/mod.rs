//! Options of single policies, written `name:key=value,key=value`.

mod macros;
mod share;
mod value;

use thiserror::Error;

pub(super) use macros::{named_values, policy_options};
pub use share::{Share, ShareError};
pub use value::Given;
pub(super) use value::OptionValue;

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

#[cfg(test)]
#[allow(unreachable_pub, reason = "the macros make public items")]
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
}
