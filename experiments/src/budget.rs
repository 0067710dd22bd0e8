//! Token budgets, in tokens or as shares of the context.

use std::{fmt, str::FromStr};

use quest_burn_report::count;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many tokens a decoded token may attend to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Budget {
    /// As many, whatever the context.
    Tokens(usize),
    /// `numerator / denominator` of the context.
    Share {
        /// Parts that are read.
        numerator: usize,
        /// Parts of the context.
        denominator: usize,
    },
}

/// A text that is no budget.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error(
    "budget: expected a number of tokens such as 4096 or 4K, or a share of the context such as 1/16, \
     found `{0}`"
)]
pub struct BudgetError(String);

impl Budget {
    /// The budget for a context, in tokens.
    ///
    /// A share is rounded down to whole pages, but to no less than one.
    pub fn tokens(self, context: usize, page_size: usize) -> usize {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::Share {
                numerator,
                denominator,
            } => {
                let tokens = context as u128 * numerator as u128 / denominator as u128;
                let pages = tokens as usize / page_size.max(1);
                pages.max(1) * page_size.max(1)
            }
        }
    }

    /// What it is, in a few words.
    pub fn label(self) -> String {
        match self {
            Self::Tokens(tokens) => format!("budget {tokens} tokens"),
            Self::Share { .. } => format!("budget {self} of the context"),
        }
    }
}

/// What a table says of a budget as it was asked for, or of a policy that has none.
pub(crate) fn cell(asked: Option<Budget>) -> String {
    asked.map_or("-".to_owned(), |budget| budget.to_string())
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&n| n > 0);
        let budget = match text.split_once('/') {
            None => count::tokens(text).ok().map(Self::Tokens),
            Some((numerator, denominator)) => number(numerator)
                .zip(number(denominator))
                .filter(|(numerator, denominator)| numerator <= denominator)
                .map(|(numerator, denominator)| Self::Share {
                    numerator,
                    denominator,
                }),
        };
        budget.ok_or_else(|| BudgetError(text.to_owned()))
    }
}

impl TryFrom<String> for Budget {
    type Error = BudgetError;

    fn try_from(text: String) -> Result<Self, BudgetError> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> Self {
        budget.to_string()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => write!(f, "{tokens}"),
            Self::Share {
                numerator,
                denominator,
            } => write!(f, "{numerator}/{denominator}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_tokens_or_shares_and_print_as_they_were_written() {
        for text in ["1", "2048", "1/16", "3/4", "1/1"] {
            assert_eq!(text.parse::<Budget>().unwrap().to_string(), text);
        }
        assert_eq!("4K".parse(), Ok(Budget::Tokens(4096)));
        for bad in [
            "", "0", "-1", "1.5", "1/0", "0/4", "5/4", "1/", "/4", "1/2/3",
        ] {
            let error = bad.parse::<Budget>().unwrap_err();
            assert!(error.to_string().ends_with(&format!("found `{bad}`")));
        }
    }

    #[test]
    fn shares_are_whole_pages_and_at_least_one() {
        let share = "1/16".parse::<Budget>().unwrap();
        assert_eq!(share.tokens(16384, 16), 1024);
        assert_eq!(share.tokens(16383, 16), 63 * 16);
        assert_eq!(share.tokens(100, 16), 16);
        assert_eq!("1/1".parse::<Budget>().unwrap().tokens(40, 16), 32);
        assert_eq!("100".parse::<Budget>().unwrap().tokens(40, 16), 100);
    }

    #[test]
    fn budgets_are_strings_in_json() {
        let budgets = ["64", "1/64"].map(|text| text.parse::<Budget>().unwrap());
        let json = serde_json::to_string(&budgets).unwrap();
        assert_eq!(json, r#"["64","1/64"]"#);
        assert_eq!(serde_json::from_str::<Vec<Budget>>(&json).unwrap(), budgets);
        assert!(serde_json::from_str::<Budget>(r#""none""#).is_err());
    }
}
