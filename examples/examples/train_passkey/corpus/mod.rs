//! Training texts: facts to find again among filler, texts to copy, and prose.

mod document;
mod facts;
mod prose;
mod vocabulary;
mod words;

use rand::{Rng, RngExt, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

pub(crate) use document::{Document, Part};
pub(crate) use facts::Fact;
pub(crate) use prose::GRASS;
pub(crate) use vocabulary::{Vocabulary, VocabularyError};

use document::Writer;
use words::{COLOURS, NAMES, PLACES, THINGS, invented, number, pick};

/// The task sentence of the passkey task.
pub(crate) const TASK: &str = "There is an important info hidden inside a lot of irrelevant text. Find \
                        it and memorize them. I will quiz you about the important information \
                        there.";

/// How documents are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Share of documents that are passkey tasks.
    pub passkey: f64,
    /// Share of documents with many facts and questions.
    pub facts: f64,
    /// Share of documents that copy themselves; the rest is prose.
    pub copies: f64,
    /// Sentences of filler between two facts or questions, on average.
    pub filler: f64,
}

impl Recipe {
    /// A document of `tokens` tokens.
    ///
    /// # Errors
    ///
    /// When the vocabulary cannot express a word.
    pub(crate) fn document(
        &self,
        vocabulary: &Vocabulary,
        tokens: usize,
        rng: &mut impl Rng,
    ) -> Result<Document, VocabularyError> {
        let mut writer = Writer::new(vocabulary, tokens);
        let kind = rng.random::<f64>();
        if kind < self.passkey {
            passkey(&mut writer, rng)?;
        } else if kind < self.passkey + self.facts {
            self.facts(&mut writer, rng)?;
        } else if kind < self.passkey + self.facts + self.copies {
            self.copies(&mut writer, rng)?;
        }
        while !writer.is_full() {
            writer.sentence(&prose::sentence(rng), Part::Text)?;
        }
        Ok(writer.finish())
    }

    /// Facts, questions after them, and filler.
    fn facts(&self, writer: &mut Writer<'_>, rng: &mut impl Rng) -> Result<(), VocabularyError> {
        let most = (writer.room() / 60).clamp(2, 64);
        let most = rng.random_range(2..=most.max(3));
        let mut filler = Filler::random(rng);
        let sentences = self.filler * [0.25, 0.5, 1.0, 2.0].choose(rng).expect("not empty");
        let lines = rng.random_bool(0.5);
        let mut known: Vec<Fact> = Vec::new();
        while !writer.is_full() {
            let is_new = known.len() < most && (known.is_empty() || rng.random_bool(0.4));
            if is_new {
                let fact = Fact::random(rng);
                if known.iter().any(|other| other.key == fact.key) {
                    continue;
                }
                writer.fact(&fact)?;
                known.push(fact);
            } else {
                let fact = known.choose(rng).expect("there is at least one");
                writer.question(&fact.question(rng), &fact.value)?;
            }
            if lines && rng.random_bool(0.5) {
                writer.line()?;
            }
            let here = rng.random_range(0.0..=2.0 * sentences);
            for _ in 0..here.round() as usize {
                writer.sentence(&filler.next(rng), Part::Text)?;
            }
        }
        Ok(())
    }

    /// Sequences of words that are said twice.
    fn copies(&self, writer: &mut Writer<'_>, rng: &mut impl Rng) -> Result<(), VocabularyError> {
        let mut filler = Filler::random(rng);
        while !writer.is_full() {
            let words = (0..rng.random_range(3..=24))
                .map(|_| match rng.random_range(0..4) {
                    0 => invented(rng),
                    1 => number(rng),
                    _ => {
                        let words = [THINGS, PLACES, NAMES, COLOURS].choose(rng);
                        pick(words.expect("four lists"), rng).to_owned()
                    }
                })
                .collect::<Vec<_>>()
                .join(" ");
            let (first, second) = *[("Copy:", "Again:"), ("List:", "The same list:")]
                .choose(rng)
                .expect("not empty");
            writer.sentence(first, Part::Text)?;
            writer.sentence(&words, Part::Text)?;
            writer.line()?;
            let here = rng.random_range(0.0..=2.0 * self.filler);
            for _ in 0..here.round() as usize {
                writer.sentence(&filler.next(rng), Part::Text)?;
            }
            writer.sentence(second, Part::Text)?;
            writer.sentence(&words, Part::Copy)?;
            writer.line()?;
        }
        Ok(())
    }
}

/// The passkey task at a random depth, often with other facts in between and asked more than once.
fn passkey(writer: &mut Writer<'_>, rng: &mut impl Rng) -> Result<(), VocabularyError> {
    /// Tokens for the statement, the question and the lines around them.
    const FRAME: usize = 60;
    let value = if rng.random_bool(0.6) {
        rng.random_range(1..=50_000).to_string()
    } else {
        number(rng)
    };
    let fact = Fact::passkey(value);
    let mut filler = if rng.random_bool(0.6) {
        Filler::grass()
    } else {
        Filler::random(rng)
    };
    if rng.random_bool(0.7) {
        writer.sentence(TASK, Part::Text)?;
        writer.line()?;
    }
    let distraction = if rng.random_bool(0.5) { 0.0 } else { 0.04 };
    let last = rng.random_range(0..=writer.room() / 3);
    let room = writer.room().saturating_sub(FRAME + last);
    let depth = rng.random_range(0.0..=1.0);
    let end = writer.room() - (room as f64 * depth) as usize;
    filler.until(writer, end, distraction, rng)?;
    writer.line()?;
    writer.fact(&fact)?;
    writer.line()?;
    filler.restart();
    filler.until(writer, last + FRAME / 2, distraction, rng)?;
    while !writer.is_full() {
        writer.line()?;
        writer.question(&fact.question(rng), &fact.value)?;
        writer.line()?;
        let end = rng.random_range(0..=writer.room());
        filler.until(writer, end, distraction, rng)?;
    }
    Ok(())
}

/// Sentences between facts.
enum Filler {
    /// The same ones again and again.
    Loop { sentences: Vec<String>, next: usize },
    /// New ones.
    Prose,
}

impl Filler {
    fn grass() -> Self {
        Self::Loop {
            sentences: GRASS.iter().map(|&sentence| sentence.into()).collect(),
            next: 0,
        }
    }

    fn random(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..3) {
            0 => Self::grass(),
            1 => Self::Loop {
                sentences: prose::refrain(rng),
                next: 0,
            },
            _ => Self::Prose,
        }
    }

    fn next(&mut self, rng: &mut impl Rng) -> String {
        match self {
            Self::Loop { sentences, next } => {
                *next += 1;
                sentences[(*next - 1) % sentences.len()].clone()
            }
            Self::Prose => prose::sentence(rng),
        }
    }

    fn restart(&mut self) {
        if let Self::Loop { next, .. } = self {
            *next = 0;
        }
    }

    /// Writes until about `room` tokens are left; the last sentence may end anywhere.
    fn until(
        &mut self,
        writer: &mut Writer<'_>,
        room: usize,
        distraction: f64,
        rng: &mut impl Rng,
    ) -> Result<(), VocabularyError> {
        while writer.room() > room + 8 {
            writer.sentence(&self.next(rng), Part::Text)?;
            if rng.random_bool(distraction) {
                writer.fact(&Fact::random(rng))?;
            }
        }
        let sentence = self.next(rng);
        let cut = rng.random_range(0..=sentence.len());
        match sentence.get(..cut) {
            Some(part) if cut > 0 => writer.sentence(part.trim_end(), Part::Text),
            _ => Ok(()),
        }
    }
}

/// Text of every kind, to make a vocabulary from.
pub(crate) fn sample(rng: &mut impl Rng) -> String {
    let mut parts = vec![
        TASK.to_owned(),
        GRASS.join(" "),
        "Copy: Again: List: The same list:".into(),
    ];
    for _ in 0..400 {
        parts.push(prose::sentence(rng));
        let fact = Fact::random(rng);
        for around in fact.statement() {
            parts.push(format!("{} {}{}", around.before, fact.value, around.after));
        }
        let question = fact.question(rng);
        parts.push(format!(
            "{} {}{}",
            question.before, fact.value, question.after
        ));
    }
    let fact = Fact::passkey(number(rng));
    for around in fact.statement() {
        parts.push(format!("{} {}{}", around.before, fact.value, around.after));
    }
    parts.push(fact.question(rng).before);
    parts.join(" ")
}

#[cfg(test)]
mod tests;
