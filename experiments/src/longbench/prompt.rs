//! The prompts: what a model reads of a record, and which part of it is decoded.
//!
//! They have the structure of LongBench's prompts (instruction, context, instruction again,
//! question) in words of our own, so scores are comparable with each other but not to the digit
//! with published ones.

use quest_burn_models::tokenizer::{Tokenizer, TokenizerError};
use thiserror::Error;

use super::{Record, Task};

/// A prompt in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Read densely: instruction and context.
    pub prefilled: String,
    /// Read token by token through the policy, as if it were generated: the question.
    pub decoded: String,
}

/// The token ids of a [`Prompt`], cut to a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptIds {
    /// Read densely.
    pub prefilled: Vec<u32>,
    /// Read token by token through the policy.
    pub decoded: Vec<u32>,
    /// Tokens that were cut out of the middle.
    pub cut: usize,
}

impl PromptIds {
    /// Tokens of both parts.
    pub fn tokens(&self) -> usize {
        self.prefilled.len() + self.decoded.len()
    }
}

/// Why a record's prompt cannot be read by a model.
#[derive(Error, Debug)]
pub enum PromptError {
    /// The text has no ids.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// There is no question to decode.
    #[error("question: expected a text to feed token by token, found none")]
    Question,
    /// The context does not even hold the question.
    #[error(
        "context: expected at least {needed} tokens, of which the {decoded} of a question are to \
         lie in the second half and {new_tokens} are for the answer, found {limit}"
    )]
    Context {
        /// The smallest context that will do.
        needed: usize,
        /// Tokens of the question.
        decoded: usize,
        /// Tokens of an answer.
        new_tokens: usize,
        /// The context.
        limit: usize,
    },
}

/// The words around a record.
struct Template {
    /// Before the context.
    before: &'static str,
    /// After the context, and still prefilled.
    between: &'static str,
    /// What Quest's accuracy code feeds token by token.
    question: &'static str,
}

/// Stands for the question in a template.
const INPUT: &str = "{input}";

/// The released accuracy code decodes no more of a prompt than its last 100 characters.
const MOST_DECODED: usize = 100;

impl Template {
    fn of(task: Task) -> Self {
        match task {
            Task::Qasper => Self {
                before: "Below are a scientific article and, behind it, a question. Reply in as \
                         few words as you can, with one phrase or one sentence where that will do. \
                         If the article does not hold the answer, write \"unanswerable\". To a \
                         yes-or-no question, reply \"yes\", \"no\" or \"unanswerable\". Give no \
                         reasons.\n\nArticle: ",
                between: "\n\nReply to the question from the article above in as few words as \
                          you can, with one phrase or one sentence where that will do. If the \
                          article does not hold the answer, write \"unanswerable\". To a \
                          yes-or-no question, reply \"yes\", \"no\" or \"unanswerable\". Give no \
                          reasons.\n\n",
                question: "Question: {input}\n\nAnswer:",
            },
            Task::NarrativeQa => Self {
                before: "Below are a story, which is a novel or the script of a film, and, behind \
                         it, a question. Reply in as few words as you can, with one phrase where \
                         that will do. Give no reasons.\n\nStory: ",
                between: "\n\nReply to the question from the story above in as few words as you \
                          can, with one phrase where that will do. ",
                question: "Give no reasons.\n\nQuestion: {input}\n\nAnswer:",
            },
            Task::HotpotQa => Self {
                before: "Reply to a question from some passages. Write the answer alone and no \
                         words around it.\n\nThese are the passages.\n",
                between: "\n\nReply to the question from the passages above. Write the answer \
                          alone and no words around it.\n\n",
                question: "Question: {input}\nAnswer:",
            },
            Task::MultiFieldQaEn => Self {
                before: "Read this text and reply in few words.\n\n",
                between: "\n\n",
                question: "Now reply to this question from the text above. Write the answer \
                           alone and no words around it.\n\nQuestion: {input}\nAnswer:",
            },
            Task::GovReport => Self {
                before: "Below is a report of a government agency. Summarise it on one \
                         page.\n\nReport:\n",
                between: "\n\n",
                question: "Now summarise the report on one page.\n\nSummary:",
            },
            Task::TriviaQa => Self {
                before: "Reply to the question from its passage. Write the answer alone and no \
                         words around it. A few examples come first.\n\n",
                between: "\n\n",
                question: INPUT,
            },
        }
    }
}

impl Prompt {
    /// The prompt of a task for one of its records.
    ///
    /// Decoded is the question, from the place where the released accuracy code begins to decode,
    /// but at most the last 100 characters.
    pub fn new(task: Task, record: &Record) -> Self {
        let template = Template::of(task);
        let mut prefilled = template.before.to_owned();
        prefilled.push_str(&record.context);
        prefilled.push_str(template.between);
        let question = template.question.replace(INPUT, &record.input);
        let mut last = question.char_indices().rev();
        let start = last.nth(MOST_DECODED - 1).map_or(0, |(index, _)| index);
        prefilled.push_str(&question[..start]);
        Self {
            prefilled,
            decoded: question[start..].to_owned(),
        }
    }

    /// The ids of both parts. Where they and `new_tokens` more do not fit into `context`, ids in
    /// the middle of the whole prompt are left out, so that as many stay before as behind.
    ///
    /// LongBench cuts in the same place, but makes text of what is left and ids of that text
    /// again.
    ///
    /// # Errors
    ///
    /// When the text cannot be expressed in the vocabulary, the question is empty, or half of the context does not hold
    /// the question.
    pub fn ids(
        &self,
        tokenizer: &Tokenizer,
        new_tokens: usize,
        context: usize,
    ) -> Result<PromptIds, PromptError> {
        let prefilled = tokenizer.encode(&self.prefilled)?;
        let decoded = tokenizer.encode_continuation(&self.decoded)?;
        cut_middle(prefilled, decoded, new_tokens, context)
    }
}

fn cut_middle(
    mut prefilled: Vec<u32>,
    decoded: Vec<u32>,
    new_tokens: usize,
    context: usize,
) -> Result<PromptIds, PromptError> {
    if decoded.is_empty() {
        return Err(PromptError::Question);
    }
    let room = context.saturating_sub(new_tokens);
    let mut cut = 0;
    if prefilled.len() + decoded.len() > room {
        let half = room / 2;
        if half < decoded.len() {
            return Err(PromptError::Context {
                needed: 2 * decoded.len() + new_tokens,
                decoded: decoded.len(),
                new_tokens,
                limit: context,
            });
        }
        let behind = prefilled.len() + decoded.len() - half;
        cut = behind - half;
        prefilled.drain(half..behind);
    }
    Ok(PromptIds {
        prefilled,
        decoded,
        cut,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(input: &str) -> Record {
        Record {
            input: input.to_owned(),
            context: "CONTEXT".to_owned(),
            answers: Vec::new(),
            length: 0,
            dataset: String::new(),
            language: String::new(),
            all_classes: None,
            id: String::new(),
        }
    }

    #[test]
    fn a_short_question_is_decoded_from_where_it_begins() {
        let prompt = Prompt::new(Task::Qasper, &record("Which corpus?"));
        assert_eq!(prompt.decoded, "Question: Which corpus?\n\nAnswer:");
        assert!(prompt.prefilled.contains("Article: CONTEXT\n\nReply to"));
        assert!(prompt.prefilled.ends_with("Give no reasons.\n\n"));

        let prompt = Prompt::new(Task::NarrativeQa, &record("Who?"));
        assert!(
            prompt
                .decoded
                .starts_with("Give no reasons.\n\nQuestion: Who?")
        );

        let prompt = Prompt::new(Task::GovReport, &record(""));
        assert_eq!(
            prompt.decoded,
            "Now summarise the report on one page.\n\nSummary:"
        );
        assert!(prompt.prefilled.ends_with("Report:\nCONTEXT\n\n"));

        let prompt = Prompt::new(Task::TriviaQa, &record("Question: Who?\nAnswer:"));
        assert_eq!(prompt.decoded, "Question: Who?\nAnswer:");
    }

    #[test]
    fn no_more_than_a_hundred_characters_are_decoded() {
        for task in Task::ALL {
            let long = "\u{e9}".repeat(300);
            let prompt = Prompt::new(task, &record(&long));
            let n = prompt.decoded.chars().count();
            if task == Task::GovReport {
                assert!(n < 100, "it has no question");
            } else {
                assert_eq!(n, 100, "{task}");
            }
            assert_eq!(
                (prompt.prefilled + &prompt.decoded)
                    .matches('\u{e9}')
                    .count(),
                if task == Task::GovReport { 0 } else { 300 },
                "{task}: nothing is lost"
            );
        }
    }

    #[test]
    fn a_prompt_that_fits_is_left_whole() {
        let ids = cut_middle(vec![1, 2, 3, 4, 5], vec![6, 7], 3, 10).unwrap();
        assert_eq!(
            (ids.prefilled, ids.decoded),
            (vec![1, 2, 3, 4, 5], vec![6, 7])
        );
        assert_eq!(ids.cut, 0);
    }

    #[test]
    fn the_middle_of_a_long_prompt_is_cut_out() {
        // Room for 6 of 8 ids: 3 before and 3 behind.
        let ids = cut_middle(vec![1, 2, 3, 4, 5, 6], vec![7, 8], 3, 9).unwrap();
        assert_eq!((ids.prefilled, ids.decoded), (vec![1, 2, 3, 6], vec![7, 8]));
        assert_eq!(ids.cut, 2);
        // Room for 7, of which LongBench uses twice the half.
        let ids = cut_middle(vec![1, 2, 3, 4, 5, 6], vec![7, 8], 3, 10).unwrap();
        assert_eq!((ids.prefilled, ids.cut), (vec![1, 2, 3, 6], 2));
    }

    #[test]
    fn an_empty_question_is_refused() {
        let error = cut_middle(vec![1], Vec::new(), 3, 10).unwrap_err();
        assert!(matches!(error, PromptError::Question));
    }

    #[test]
    fn the_question_is_never_cut() {
        let ids = cut_middle(vec![1, 2, 3, 4, 5, 6], vec![7, 8], 3, 7).unwrap();
        assert_eq!((ids.prefilled, ids.decoded), (vec![1, 2], vec![7, 8]));
        let error = cut_middle(vec![1, 2, 3, 4, 5, 6], vec![7, 8], 3, 6).unwrap_err();
        assert_eq!(
            error.to_string(),
            "context: expected at least 7 tokens, of which the 2 of a question are to lie in the \
             second half and 3 are for the answer, found 6"
        );
    }
}
