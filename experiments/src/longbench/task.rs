use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Metric;

/// A task of LongBench that the Quest paper reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Task {
    /// Questions about a scientific article.
    #[serde(rename = "qasper")]
    Qasper,
    /// Questions about a novel or a film script.
    #[serde(rename = "narrativeqa")]
    NarrativeQa,
    /// Questions whose answer takes several passages.
    #[serde(rename = "hotpotqa")]
    HotpotQa,
    /// Questions about articles from many fields.
    #[serde(rename = "multifieldqa_en")]
    MultiFieldQaEn,
    /// Summaries of government reports.
    #[serde(rename = "gov_report")]
    GovReport,
    /// Trivia with a passage and a few examples.
    #[serde(rename = "triviaqa")]
    TriviaQa,
}

/// A task that is not among the six.
#[derive(Error, Debug, Clone, PartialEq, Eq)]
#[error("task: expected one of {}, found {found}", Task::ALL.map(Task::name).join(", "))]
pub struct UnknownTask {
    /// The name that was given.
    pub found: String,
}

impl Task {
    /// In the order of the paper's figure.
    pub const ALL: [Self; 6] = [
        Self::Qasper,
        Self::HotpotQa,
        Self::GovReport,
        Self::TriviaQa,
        Self::NarrativeQa,
        Self::MultiFieldQaEn,
    ];

    /// LongBench's name for it, which is also that of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qasper => "qasper",
            Self::NarrativeQa => "narrativeqa",
            Self::HotpotQa => "hotpotqa",
            Self::MultiFieldQaEn => "multifieldqa_en",
            Self::GovReport => "gov_report",
            Self::TriviaQa => "triviaqa",
        }
    }

    /// How answers are scored.
    pub fn metric(self) -> Metric {
        match self {
            Self::GovReport => Metric::RougeL,
            _ => Metric::F1,
        }
    }

    /// Tokens of an answer at most.
    pub fn max_new_tokens(self) -> usize {
        match self {
            Self::HotpotQa | Self::TriviaQa => 32,
            Self::MultiFieldQaEn => 64,
            Self::Qasper | Self::NarrativeQa => 128,
            Self::GovReport => 512,
        }
    }

    /// The score of what the model generated, from 0 to 1.
    pub fn score(self, generated: &str, answers: &[String]) -> f64 {
        self.metric().score(self.answer(generated), answers)
    }

    /// The part of the generated text that is the answer. The examples of TriviaQA invite to continue
    /// with a next one, so only the first line counts there.
    fn answer(self, generated: &str) -> &str {
        match self {
            Self::TriviaQa => {
                let text = generated.trim_start_matches('\n');
                text.split('\n').next().unwrap_or(text)
            }
            _ => generated,
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Task {
    type Err = UnknownTask;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        let task = all.find(|task| task.name() == name);
        task.ok_or_else(|| UnknownTask {
            found: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_longbench_everywhere() {
        for task in Task::ALL {
            assert_eq!(task.name().parse(), Ok(task));
            assert_eq!(serde_json::to_value(task).unwrap(), task.name());
        }
        assert_eq!(
            "samsum".parse::<Task>().unwrap_err().to_string(),
            "task: expected one of qasper, hotpotqa, gov_report, triviaqa, narrativeqa, \
             multifieldqa_en, found samsum"
        );
    }

    #[test]
    fn only_the_first_line_of_a_trivia_answer_counts() {
        let answers = ["Ada Lovelace".to_owned()];
        let generated = "\n\nAda Lovelace\nPassage: another one";
        assert_eq!(Task::TriviaQa.score(generated, &answers), 1.0);
        assert!(Task::HotpotQa.score(generated, &answers) < 1.0);
        assert_eq!(Task::TriviaQa.score("", &answers), 0.0);
    }

    #[test]
    fn reports_are_scored_by_rouge_l_and_questions_by_f1() {
        let answers = ["The Costs".to_owned()];
        assert_eq!(Task::GovReport.score("the costs", &answers), 0.0);
        assert_eq!(Task::Qasper.score("the costs", &answers), 1.0);
    }
}
