/// Finds texts that end an answer, wherever tokens part them. What may be the beginning of one is held
/// back, so that no part of a stop text is ever given out.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// The text that can be given out now, and whether a stop text came behind it.
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| self.held.find(&**stop));
        if let Some(at) = found.min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let held = held_back(&self.held, self.stops.iter().map(|stop| &**stop));
        let rest = self.held.split_off(self.held.len() - held);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, now that nothing follows.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of a text that one of `others` begins with, all of it excepted.
pub(super) fn held_back<'a>(text: &str, others: impl Iterator<Item = &'a str>) -> usize {
    let ends = others.map(|other| {
        let longest = text.len().min(other.len().saturating_sub(1));
        let lengths = (1..=longest).rev();
        let mut lengths = lengths.filter(|&length| other.is_char_boundary(length));
        let found = lengths.find(|&length| text.ends_with(&other[..length]));
        found.unwrap_or(0)
    });
    ends.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of pieces, joined, and whether a stop text ended it.
    fn joined(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|stop| (*stop).into()).collect());
        let mut text = String::new();
        for piece in pieces {
            let (shown, is_end) = matcher.push(piece);
            text += &shown;
            if is_end {
                return (text, true);
            }
            assert!(!stops.iter().any(|stop| text.contains(stop)));
        }
        text += &matcher.finish();
        (text, false)
    }

    #[test]
    fn a_stop_text_is_found_across_tokens() {
        assert_eq!(joined(&["END"], &["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(
            joined(&["END"], &["a E", "N", "E"]),
            ("a ENE".into(), false)
        );
        assert_eq!(joined(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(joined(&["é!"], &["caf", "é", "!"]), ("caf".into(), true));
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(joined(&["c", "b"], &["abc"]), ("a".into(), true));
        assert_eq!(joined(&["bcd", "b"], &["abc"]), ("a".into(), true));
    }

    #[test]
    fn only_what_may_be_a_stop_text_is_held_back() {
        let mut matcher = StopMatcher::new(vec!["\n\nQ:".into()]);
        assert_eq!(matcher.push("hello"), ("hello".into(), false));
        assert_eq!(matcher.push(" you\n"), (" you".into(), false));
        assert_eq!(matcher.push("there"), ("\nthere".into(), false));
    }

    #[test]
    fn without_stop_texts_nothing_is_held_back() {
        assert_eq!(joined(&[], &["a", "b"]), ("ab".into(), false));
    }
}
