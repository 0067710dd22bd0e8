use std::{fmt, str::FromStr};

use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Document, Haystack, documents, needles, variables, words};

/// One of RULER's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RulerTask {
    /// One needle, which is asked for.
    #[serde(rename = "niah-single")]
    NeedleSingle,
    /// Four needles with different keys, one of which is asked for.
    #[serde(rename = "niah-multikey")]
    NeedleMultiKey,
    /// Four needles with the same key, all of which are asked for.
    #[serde(rename = "niah-multivalue")]
    NeedleMultiValue,
    /// Four needles with different keys, all of which are asked for.
    #[serde(rename = "niah-multiquery")]
    NeedleMultiQuery,
    /// A chain of variables, all of which have one value.
    #[serde(rename = "vt")]
    VariableTracking,
    /// The ten words of a list that come ten times as often as the others.
    #[serde(rename = "cwe")]
    CommonWords,
    /// The three most frequent of coded words.
    #[serde(rename = "fwe")]
    FrequentWords,
    /// A question about one of many documents.
    #[serde(rename = "qa")]
    Questions,
}

/// What a task is made of besides its seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Material<'a> {
    /// What needles and variables lie in.
    pub haystack: &'a Haystack,
    /// What questions are about.
    pub documents: &'a [Document],
}

/// A task of a certain size, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RulerText {
    /// What is to be read.
    pub context: String,
    /// What is asked, with the beginning of the answer.
    pub question: String,
    /// What the answer must hold.
    pub expected: Vec<String>,
}

impl RulerTask {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NeedleSingle,
        Self::NeedleMultiKey,
        Self::NeedleMultiValue,
        Self::NeedleMultiQuery,
        Self::VariableTracking,
        Self::CommonWords,
        Self::FrequentWords,
        Self::Questions,
    ];

    /// Its name on command lines and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NeedleSingle => "niah-single",
            Self::NeedleMultiKey => "niah-multikey",
            Self::NeedleMultiValue => "niah-multivalue",
            Self::NeedleMultiQuery => "niah-multiquery",
            Self::VariableTracking => "vt",
            Self::CommonWords => "cwe",
            Self::FrequentWords => "fwe",
            Self::Questions => "qa",
        }
    }

    /// Tokens of an answer at most, as in RULER.
    pub const fn answer_tokens(self) -> usize {
        match self {
            Self::VariableTracking => 30,
            Self::CommonWords => 120,
            Self::FrequentWords => 50,
            Self::Questions => 32,
            _ => 128,
        }
    }

    /// Whether the task has a place in the text that is asked for.
    pub const fn has_depth(self) -> bool {
        matches!(
            self,
            Self::NeedleSingle
                | Self::NeedleMultiKey
                | Self::NeedleMultiValue
                | Self::NeedleMultiQuery
        )
    }

    /// Whether one right answer of several is enough.
    pub const fn any_is_enough(self) -> bool {
        matches!(self, Self::Questions)
    }

    /// The task with `size` sentences, words or documents that it is not about. What is drawn depends
    /// on the seed and not on the size.
    pub(super) fn text(
        self,
        size: usize,
        seed: u64,
        depth: f64,
        trial: usize,
        material: Material<'_>,
    ) -> RulerText {
        let rng = &mut StdRng::seed_from_u64(seed);
        let haystack = material.haystack;
        match self {
            Self::NeedleSingle => needles::text(haystack, size, depth, needles::SINGLE, rng),
            Self::NeedleMultiKey => needles::text(haystack, size, depth, needles::MULTI_KEY, rng),
            Self::NeedleMultiValue => {
                needles::text(haystack, size, depth, needles::MULTI_VALUE, rng)
            }
            Self::NeedleMultiQuery => {
                needles::text(haystack, size, depth, needles::MULTI_QUERY, rng)
            }
            Self::VariableTracking => variables::text(haystack, size, rng),
            Self::CommonWords => words::common(size, rng),
            Self::FrequentWords => words::frequent(size, rng),
            Self::Questions => documents::text(material.documents, size, trial, rng),
        }
    }

    /// The smallest and the largest size.
    pub(super) fn sizes(self, material: Material<'_>) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::CommonWords => 0..=words::MAX_UNCOMMON,
            Self::FrequentWords => words::LEAST_CODED..=usize::MAX,
            Self::Questions => 0..=material.documents.len().saturating_sub(1),
            _ => 0..=usize::MAX,
        }
    }
}

impl fmt::Display for RulerTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no task has.
#[derive(Error, Clone, Debug, PartialEq, Eq)]
#[error("task: expected one of {}, found `{found}`", names())]
pub struct UnknownTask {
    /// The name that was given.
    pub found: String,
}

fn names() -> String {
    RulerTask::ALL.map(RulerTask::name).join(", ")
}

impl FromStr for RulerTask {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, UnknownTask> {
        let named = Self::ALL.into_iter().find(|task| task.name() == name);
        named.ok_or_else(|| UnknownTask {
            found: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_by_the_names_that_results_carry() {
        for task in RulerTask::ALL {
            assert_eq!(task.name().parse(), Ok(task));
            assert_eq!(serde_json::to_value(task).unwrap(), task.name());
        }
        let error = "niah".parse::<RulerTask>().unwrap_err().to_string();
        assert!(error.starts_with("task: expected one of niah-single, niah-multikey"));
        assert!(error.ends_with("found `niah`"));
    }
}
