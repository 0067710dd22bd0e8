use super::{
    facts::{Around, Fact},
    vocabulary::{Vocabulary, VocabularyError},
};

/// What a token is to the model that learns from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Ordinary text; some of it cannot be foreseen.
    Text,
    /// Text that repeats what stands before it.
    Copy,
    /// The answer to a question, its end included.
    Answer,
}

/// Token ids of one training text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Document {
    /// The ids, the first of which begins a text.
    pub ids: Vec<u32>,
    /// What each of them is.
    pub parts: Vec<Part>,
    /// Indices of ids that positions may jump before.
    pub joints: Vec<usize>,
}

/// Writes a document of an exact number of tokens.
pub(super) struct Writer<'a> {
    vocabulary: &'a Vocabulary,
    tokens: usize,
    document: Document,
    at_line_start: bool,
}

impl<'a> Writer<'a> {
    /// A document of `tokens` tokens that begins with the vocabulary's first.
    pub(super) fn new(vocabulary: &'a Vocabulary, tokens: usize) -> Self {
        Self {
            vocabulary,
            tokens,
            document: Document {
                ids: vec![vocabulary.begin()],
                parts: vec![Part::Text],
                joints: Vec::new(),
            },
            at_line_start: true,
        }
    }

    /// Tokens that are still to be written.
    pub(super) fn room(&self) -> usize {
        self.tokens.saturating_sub(self.document.ids.len())
    }

    /// Whether all tokens are written.
    pub(super) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// A sentence, after a space where it does not begin a line.
    pub(super) fn sentence(&mut self, text: &str, part: Part) -> Result<(), VocabularyError> {
        self.joint();
        let space = if self.at_line_start { "" } else { " " };
        self.at_line_start = false;
        self.push(&format!("{space}{text}"), part)
    }

    /// The end of a line.
    pub(super) fn line(&mut self) -> Result<(), VocabularyError> {
        self.at_line_start = true;
        self.push("\n", Part::Text)
    }

    /// A fact as it is said first.
    pub(super) fn fact(&mut self, fact: &Fact) -> Result<(), VocabularyError> {
        for (index, around) in fact.statement().iter().enumerate() {
            let part = if index == 0 { Part::Text } else { Part::Copy };
            if !around.before.is_empty() {
                self.sentence(&around.before, Part::Text)?;
            }
            self.push(&format!(" {}", fact.value), part)?;
            self.push(&around.after, Part::Text)?;
        }
        Ok(())
    }

    /// A question with its answer.
    pub(super) fn question(&mut self, around: &Around, value: &str) -> Result<(), VocabularyError> {
        self.sentence(&around.before, Part::Text)?;
        self.push(&format!(" {value}"), Part::Answer)?;
        self.push(&around.after, Part::Answer)
    }

    /// The document, cut to its length.
    pub(super) fn finish(mut self) -> Document {
        self.document.ids.truncate(self.tokens);
        self.document.parts.truncate(self.tokens);
        self.document.joints.retain(|&joint| joint < self.tokens);
        self.document
    }

    fn joint(&mut self) {
        self.document.joints.push(self.document.ids.len());
    }

    fn push(&mut self, text: &str, part: Part) -> Result<(), VocabularyError> {
        let ids = self.vocabulary.encode(text)?;
        let parts = std::iter::repeat_n(part, ids.len());
        self.document.parts.extend(parts);
        self.document.ids.extend(ids);
        Ok(())
    }
}
