//! Facts to find again: a key, a value, and questions after it.

use rand::{Rng, RngExt};

use super::words::{
    ANIMALS, COLOURS, NAMES, PLACES, QUALITIES, THINGS, capitalised, invented, number, pick,
};

/// Something that a text says once and asks for later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// What tells facts of one text apart: no two have the same.
    pub key: String,
    /// The statement up to the value.
    before: String,
    /// The statement after the value.
    after: String,
    /// Whether the statement says the value a second time, and what comes behind it.
    again: Option<String>,
    /// Questions, each up to where the answer begins.
    questions: Vec<String>,
    /// The value.
    pub value: String,
}

/// A stretch of text around a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Around {
    /// Up to the value.
    pub before: String,
    /// What follows it.
    pub after: String,
}

impl Fact {
    /// The fact of the passkey task.
    pub(crate) fn passkey(value: String) -> Self {
        Self {
            key: "pass key".into(),
            before: "The pass key is".into(),
            after: ". Remember it.".into(),
            again: Some(" is the pass key.".into()),
            questions: vec!["What is the pass key? The pass key is".into()],
            value,
        }
    }

    /// A random fact about a random subject.
    pub(crate) fn random(rng: &mut impl Rng) -> Self {
        let subject = subject(rng);
        match rng.random_range(0..10) {
            0..=5 => Self::number(rng, &subject),
            6..=7 => Self::word(rng, &subject),
            _ => Self::pair(rng),
        }
    }

    /// A subject and a number.
    fn number(rng: &mut impl Rng, subject: &str) -> Self {
        const WHAT: &[&str] = &[
            "pass key", "code", "number", "price", "secret", "password", "age", "weight", "key",
            "account", "address", "score",
        ];
        let what = pick(WHAT, rng);
        let value = number(rng);
        let mut fact = Self::about(rng, what, subject, value);
        if rng.random_bool(0.4) {
            fact.after = ". Remember it.".into();
            fact.again = Some(format!(" is the {what} of {subject}."));
        }
        fact
    }

    /// A subject and a word.
    fn word(rng: &mut impl Rng, subject: &str) -> Self {
        let (what, value) = match rng.random_range(0..4) {
            0 => ("colour", pick(COLOURS, rng).to_owned()),
            1 => ("home", pick(PLACES, rng).to_owned()),
            2 => ("friend", pick(NAMES, rng).to_owned()),
            _ => ("magic word", invented(rng)),
        };
        Self::about(rng, what, subject, value)
    }

    /// A line of a list: nothing but a word and its value.
    fn pair(rng: &mut impl Rng) -> Self {
        let name = invented(rng);
        let value = match rng.random_range(0..3) {
            0 => invented(rng),
            1 => pick(THINGS, rng).to_owned(),
            _ => number(rng),
        };
        Self {
            before: format!("{name}:"),
            after: ";".into(),
            again: None,
            questions: vec![format!("{name}:"), format!("Look up {name}:")],
            key: name,
            value,
        }
    }

    fn about(rng: &mut impl Rng, what: &str, subject: &str, value: String) -> Self {
        let possessive = rng.random_bool(0.3);
        let statement = match (possessive, rng.random_range(0..3)) {
            (true, _) => format!("{}'s {what} is", capitalised(subject)),
            (_, 0) => format!("Note that the {what} of {subject} is"),
            _ => format!("The {what} of {subject} is"),
        };
        Self {
            key: format!("{what} of {subject}"),
            after: ".".into(),
            again: None,
            questions: vec![
                format!("What is the {what} of {subject}? {statement}"),
                format!("What is the {what} of {subject}? The {what} of {subject} is"),
                format!("Tell me the {what} of {subject}. It is"),
                format!("Question: {what} of {subject}? Answer:"),
                statement.clone(),
            ],
            before: statement,
            value,
        }
    }

    /// The statement in stretches, each around the value.
    pub(crate) fn statement(&self) -> Vec<Around> {
        let first = Around {
            before: self.before.clone(),
            after: self.after.clone(),
        };
        let again = self.again.as_ref().map(|after| Around {
            before: String::new(),
            after: after.clone(),
        });
        [first].into_iter().chain(again).collect()
    }

    /// A question, and what follows the answer.
    pub(crate) fn question(&self, rng: &mut impl Rng) -> Around {
        let index = rng.random_range(0..self.questions.len());
        let end = self.after.split(' ').next().unwrap_or(".");
        Around {
            before: self.questions[index].clone(),
            after: end.into(),
        }
    }
}

fn subject(rng: &mut impl Rng) -> String {
    match rng.random_range(0..6) {
        0 => pick(NAMES, rng).to_owned(),
        1 => format!("the {}", pick(THINGS, rng)),
        2 => format!("the {} {}", pick(QUALITIES, rng), pick(THINGS, rng)),
        3 => format!("the {}", pick(PLACES, rng)),
        4 => format!("the {} {}", pick(COLOURS, rng), pick(ANIMALS, rng)),
        _ => invented(rng),
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn the_passkey_fact_reads_like_the_task() {
        let fact = Fact::passkey("123".into());
        let text = fact
            .statement()
            .iter()
            .map(|part| format!("{} 123{}", part.before, part.after))
            .collect::<String>();
        assert_eq!(
            text,
            "The pass key is 123. Remember it. 123 is the pass key."
        );
        let question = fact.question(&mut StdRng::seed_from_u64(1));
        assert_eq!(question.before, "What is the pass key? The pass key is");
        assert_eq!(question.after, ".");
    }

    #[test]
    fn every_question_names_what_the_statement_names() {
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..500 {
            let fact = Fact::random(&mut rng);
            let subject = fact.key.rsplit("of ").next().unwrap().to_lowercase();
            for question in &fact.questions {
                assert!(question.to_lowercase().contains(&subject), "{fact:?}");
            }
            assert!(!fact.value.is_empty());
        }
    }
}
