use crate::ExperimentError;

/// The sentences that RULER repeats where no text is given.
const NOISE: [&str; 5] = [
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
];

/// Sentences to hide something in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Haystack {
    sentences: Vec<String>,
}

impl Haystack {
    /// The sentences about the grass, again and again.
    pub fn noise() -> Self {
        Self {
            sentences: NOISE.map(str::to_owned).to_vec(),
        }
    }

    /// The sentences of a text, from its beginning again where it is too short.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn of_text(text: &str) -> Result<Self, ExperimentError> {
        let words = text.split_whitespace();
        let mut sentences = vec![String::new()];
        for word in words {
            let sentence = sentences.last_mut().expect("there is one");
            if !sentence.is_empty() {
                sentence.push(' ');
            }
            sentence.push_str(word);
            if word.ends_with(['.', '!', '?']) {
                sentences.push(String::new());
            }
        }
        sentences.retain(|sentence| !sentence.is_empty());
        match sentences.is_empty() {
            true => Err(ExperimentError::setting("text", "sentences", "none")),
            false => Ok(Self { sentences }),
        }
    }

    /// The first `n` sentences with others among them, each behind so many of them, in order.
    pub(super) fn with(&self, n: usize, hidden: &[(usize, String)]) -> String {
        let mut hidden = hidden.iter().collect::<Vec<_>>();
        hidden.sort_by_key(|(place, _)| *place);
        let mut hidden = hidden.into_iter().peekable();
        let mut parts = Vec::with_capacity(n + hidden.len());
        let sentences = self
            .sentences
            .iter()
            .cycle()
            .take(n)
            .map(Some)
            .chain([None]);
        for (place, sentence) in sentences.enumerate() {
            while let Some((_, statement)) = hidden.next_if(|(at, _)| *at <= place) {
                parts.push(statement.as_str());
            }
            parts.extend(sentence.map(String::as_str));
        }
        parts.extend(hidden.map(|(_, statement)| statement.as_str()));
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_repeat_and_what_is_hidden_lies_behind_its_number_of_them() {
        let hidden = [(6, "B.".to_owned()), (1, "A.".to_owned())];
        assert_eq!(
            Haystack::noise().with(6, &hidden),
            "The grass is green. A. The sky is blue. The sun is yellow. Here we go. There and back \
             again. The grass is green. B."
        );
        assert_eq!(Haystack::noise().with(0, &[(0, "A.".to_owned())]), "A.");
    }

    #[test]
    fn a_text_is_split_into_sentences_and_lines_are_joined() {
        let text = "One,\n two. Three!  Four? And no end";
        let haystack = Haystack::of_text(text).unwrap();
        let sentences = ["One, two.", "Three!", "Four?", "And no end"];
        assert_eq!(haystack.sentences, sentences);
        assert!(Haystack::of_text(" \n").is_err());
    }
}
