//! Questions about documents of a file, among other documents of it.

use rand::{rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::task::RulerText;

/// A question, its right answers, and the document that has them: a line of JSON in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The document.
    pub context: String,
    /// What is asked about it.
    pub question: String,
    /// Right answers, one of which is enough.
    pub answers: Vec<String>,
}

/// A file of documents that cannot be used.
#[derive(Error, Debug)]
pub enum DocumentError {
    /// A line is no document.
    #[error(
        "line {line}: expected a JSON object with `context`, `question` and a list of `answers`"
    )]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A document has no answer.
    #[error("line {0}: expected answers, found none, or one without a letter")]
    NoAnswer(usize),
    /// There is no document.
    #[error("expected a document in each line, found none")]
    Empty,
}

/// The documents of a file, a JSON object in each line.
///
/// # Errors
///
/// See [`DocumentError`].
pub fn documents(text: &str) -> Result<Vec<Document>, DocumentError> {
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.trim().is_empty());
    let documents = lines.map(|(text, line)| {
        let document = serde_json::from_str::<Document>(text);
        let document = document.map_err(|source| DocumentError::Line { line, source })?;
        let answers = &document.answers;
        match answers.is_empty() || answers.iter().any(|answer| answer.trim().is_empty()) {
            true => Err(DocumentError::NoAnswer(line)),
            false => Ok(document),
        }
    });
    let documents = documents.collect::<Result<Vec<_>, _>>()?;
    match documents.is_empty() {
        true => Err(DocumentError::Empty),
        false => Ok(documents),
    }
}

/// The question of a document, and that document among `others`.
///
/// # Panics
///
/// When there are fewer documents.
pub(super) fn text(
    documents: &[Document],
    others: usize,
    index: usize,
    rng: &mut StdRng,
) -> RulerText {
    let asked = &documents[index % documents.len()];
    let mut rest = documents.iter().collect::<Vec<_>>();
    rest.remove(index % documents.len());
    rest.shuffle(rng);
    let mut shown = rest[..others].to_vec();
    shown.push(asked);
    shown.shuffle(rng);
    let shown = shown.iter().zip(1..);
    let shown = shown.map(|(document, n)| format!("Document {n}:\n{}", document.context));
    const TASK: &str = "Answer the question based on the given documents. Only give me the answer \
                        and do not output any other words.";
    RulerText {
        context: format!(
            "{TASK}\n\nThe following are given documents.\n\n{}\n\n",
            shown.collect::<Vec<_>>().join("\n\n")
        ),
        question: format!("{TASK}\n\nQuestion: {} Answer:", asked.question),
        expected: asked.answers.clone(),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn file() -> String {
        let line = |n: usize| {
            format!(r#"{{"context":"Text {n}.","question":"Which {n}?","answers":["{n}"]}}"#)
        };
        (0..4).map(|n| line(n) + "\n\n").collect()
    }

    #[test]
    fn the_asked_document_is_among_the_others() {
        let documents = documents(&file()).unwrap();
        for others in 0..4 {
            let text = text(&documents, others, 6, &mut StdRng::seed_from_u64(1));
            assert!(text.context.contains("Text 2."), "6 is 2 of 4 documents");
            assert_eq!(text.context.matches("Document ").count(), others + 1);
            assert!(text.question.ends_with("Question: Which 2? Answer:"));
            assert_eq!(text.expected, ["2"]);
        }
    }

    #[test]
    fn files_without_what_is_needed_are_refused() {
        let error = |text: &str| documents(text).unwrap_err().to_string();
        assert!(error("\n").starts_with("expected a document"));
        assert!(error("{}").starts_with("line 1: expected a JSON object with `context`"));
        let no_answer = r#"{"context":"a","question":"b","answers":[" "]}"#;
        assert!(error(&format!("\n{no_answer}")).starts_with("line 2: expected answers"));
    }
}
