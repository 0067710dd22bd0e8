use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::PageSharing;
use crate::FixedPoint;

/// How the scores of the query heads that share a list become the score of their KV head.
///
/// A sum ranks pages as the mean does, so there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupRule {
    /// The highest of them: a page that one head needs is read.
    Max,
    /// Their mean: a page that all heads need a little is read.
    Mean,
}

impl fmt::Display for GroupRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Max => "max",
            Self::Mean => "mean",
        })
    }
}

/// A text that is no [`GroupRule`].
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("group rule: expected max or mean, found `{0}`")]
pub struct GroupRuleError(String);

impl FromStr for GroupRule {
    type Err = GroupRuleError;

    fn from_str(text: &str) -> Result<Self, GroupRuleError> {
        match text {
            "max" => Ok(Self::Max),
            "mean" => Ok(Self::Mean),
            _ => Err(GroupRuleError(text.to_owned())),
        }
    }
}

/// How pages are scored by their digests.
///
/// Made of a [`PageSharing`], scores of a group are its maximum, and deviations those of the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageScoring {
    /// Which query heads share a list of pages, and so a score.
    pub sharing: PageSharing,
    /// How the scores of query heads become that of their KV head, where they share one.
    pub group_rule: GroupRule,
    /// What deviations are multiplied by, where digests have some: none for what
    /// [the kind of digest](crate::digest::DigestKind::deviations) takes by itself.
    pub deviations: Option<FixedPoint>,
}

impl PageScoring {
    /// Lists, and so scores, of a page.
    pub(crate) fn lists(self, n_heads: usize, n_kv_heads: usize) -> usize {
        match self.sharing {
            PageSharing::QueryHead => n_heads,
            PageSharing::KvHead => n_kv_heads,
        }
    }

    /// Whether the query heads of a group share a score.
    pub(crate) fn is_shared(self) -> bool {
        self.sharing == PageSharing::KvHead
    }
}

impl From<PageSharing> for PageScoring {
    fn from(sharing: PageSharing) -> Self {
        Self {
            sharing,
            group_rule: GroupRule::Max,
            deviations: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_no_rule_of_its_own() {
        assert_eq!("mean".parse(), Ok(GroupRule::Mean));
        assert_eq!(
            "sum".parse::<GroupRule>().unwrap_err().to_string(),
            "group rule: expected max or mean, found `sum`"
        );
    }
}
