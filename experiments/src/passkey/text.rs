use std::ops::Range;

const TASK: &str = "There is an important info hidden inside a lot of irrelevant text. Find it and \
                    memorize them. I will quiz you about the important information there.";
const FILLER: &str = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and \
                      back again.";

/// A number that a text says twice and may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passkey {
    /// Whose it is, where a text hides several: "the old lamp".
    pub owner: Option<String>,
    /// The number.
    pub number: u32,
}

impl Passkey {
    /// The only passkey of a text.
    pub fn only(number: u32) -> Self {
        Self {
            owner: None,
            number,
        }
    }

    fn name(&self) -> String {
        match &self.owner {
            Some(owner) => format!("pass key of {owner}"),
            None => "pass key".into(),
        }
    }

    fn statement(&self) -> String {
        let (name, number) = (self.name(), self.number);
        format!("The {name} is {number}. Remember it. {number} is the {name}.")
    }

    fn question(&self) -> String {
        let name = self.name();
        format!("What is the {name}? The {name} is")
    }
}

/// The text of the task: five parts, joined by line breaks.
///
/// 1. what there is to do;
/// 2. filler;
/// 3. the passkey, twice;
/// 4. filler, from its beginning again;
/// 5. the question.
///
/// Where other passkeys are hidden too, each is a part of its own, and so is the filler before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasskeyText {
    text: String,
    passkey: Range<usize>,
}

impl PasskeyText {
    /// Hides `passkey` in `filler` characters of filler, behind the share `depth` of them, and the
    /// `others` at even distances.
    ///
    /// # Panics
    ///
    /// When the depth is not between 0 and 1.
    pub fn new(passkey: &Passkey, others: &[Passkey], filler: usize, depth: f64) -> Self {
        assert!((0.0..=1.0).contains(&depth), "depth of the passkey");
        // In millionths, so that a depth like 0.3 cuts where it does on paper.
        let cut = filler * (depth * 1e6).round() as usize / 1_000_000;
        let mut hidden = vec![(cut, passkey)];
        let n = others.len();
        let cuts = (0..n).map(|index| filler * (2 * index + 1) / (2 * n));
        hidden.extend(cuts.zip(others));
        hidden.sort_by_key(|(cut, _)| *cut);

        let mut text = String::with_capacity(filler + 512 + 128 * n);
        text += TASK;
        text.push('\n');
        let mut range = 0..0;
        let mut before = 0;
        for (cut, hidden) in hidden {
            text.extend(filling(cut - before));
            before = cut;
            text.push('\n');
            let start = text.len();
            text += &hidden.statement();
            if std::ptr::eq(hidden, passkey) {
                range = start..text.len();
            }
            text.push('\n');
        }
        text.extend(filling(filler - before));
        text.push('\n');
        text += &passkey.question();
        Self {
            text,
            passkey: range,
        }
    }

    /// Adds to the end.
    pub fn with_end(mut self, end: &str) -> Self {
        self.text += end;
        self
    }

    /// The whole text. It is ASCII: a character is a byte.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before the sentences with the passkey.
    pub fn before_passkey(&self) -> &str {
        &self.text[..self.passkey.start]
    }

    /// The text up to the end of the sentences with the passkey.
    pub fn through_passkey(&self) -> &str {
        &self.text[..self.passkey.end]
    }

    /// The text but its last `characters`.
    pub fn without_last(&self, characters: usize) -> &str {
        &self.text[..self.text.len().saturating_sub(characters)]
    }
}

/// The first characters of the filler, again and again.
fn filling(characters: usize) -> impl Iterator<Item = char> {
    FILLER.chars().chain([' ']).cycle().take(characters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_five_parts_and_the_passkey_lies_behind_its_share_of_the_filler() {
        let text = PasskeyText::new(&Passkey::only(4711), &[], 40, 0.25);
        let lines = text.text().lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 5);
        assert!(lines[0].starts_with("There is an important info"));
        assert!(lines[0].ends_with("important information there."));
        assert_eq!(lines[1], "The grass ", "10 of 40 characters");
        let expected = "The pass key is 4711. Remember it. 4711 is the pass key.";
        assert_eq!(lines[2], expected);
        assert_eq!(lines[3], "The grass is green. The sky is", "the other 30");
        assert_eq!(lines[4], "What is the pass key? The pass key is");
        assert!(text.before_passkey().ends_with("The grass \n"));
        assert!(text.through_passkey().ends_with(expected));
    }

    #[test]
    fn the_filler_repeats_with_a_space_between() {
        let text = PasskeyText::new(&Passkey::only(1), &[], 120, 1.0);
        let lines = text.text().lines().collect::<Vec<_>>();
        assert_eq!(lines[1].len(), 120);
        assert!(lines[1].contains("There and back again. The grass is green."));
        assert_eq!(lines[3], "");
        let text = PasskeyText::new(&Passkey::only(1), &[], 120, 0.0);
        assert_eq!(text.text().lines().nth(1), Some(""));
    }

    #[test]
    fn every_filler_length_adds_as_many_characters() {
        let empty = PasskeyText::new(&Passkey::only(50000), &[], 0, 0.5)
            .text()
            .len();
        for filler in [1, 2, 89, 90, 91, 1000] {
            for depth in [0.0, 0.1, 0.3, 0.7, 1.0] {
                let text = PasskeyText::new(&Passkey::only(50000), &[], filler, depth);
                assert_eq!(text.text().len(), empty + filler);
                let before = text.text().lines().nth(1).unwrap().len();
                assert_eq!(before, (filler as f64 * depth + 1e-9) as usize, "{depth}");
            }
        }
    }

    #[test]
    fn a_tail_longer_than_the_text_leaves_nothing() {
        let text = PasskeyText::new(&Passkey::only(1), &[], 0, 0.0);
        assert_eq!(text.without_last(10_000), "");
        assert!(text.text().starts_with(text.without_last(10)));
        assert_eq!(text.without_last(10).len() + 10, text.text().len());
    }

    #[test]
    fn other_passkeys_lie_at_even_distances_and_only_the_asked_one_is_asked_for() {
        let owned = |owner: &str, number| Passkey {
            owner: Some(owner.into()),
            number,
        };
        let asked = owned("the old lamp", 4711);
        let others = [owned("the red box", 12), owned("the new hat", 345)];
        let text = PasskeyText::new(&asked, &others, 400, 0.5);
        let lines = text.text().lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 9);
        assert_eq!(
            [lines[1], lines[3], lines[5], lines[7]].map(str::len),
            [100; 4]
        );
        assert_eq!(
            lines[2],
            "The pass key of the red box is 12. Remember it. 12 is the pass key of the red box."
        );
        assert!(lines[4].starts_with("The pass key of the old lamp is 4711."));
        assert!(lines[6].starts_with("The pass key of the new hat is 345."));
        assert_eq!(
            lines[8],
            "What is the pass key of the old lamp? The pass key of the old lamp is"
        );
        assert!(text.through_passkey().ends_with(lines[4]));
        assert!(text.before_passkey().ends_with(&format!("{}\n", lines[3])));
    }
}
