use serde_json::Value;

/// What is seen of a grammar in Lark's syntax without taking it apart as a whole.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scan {
    /// Names, texts, regular expressions and signs of repetition in rules. Terminals do not count.
    pub items: usize,
    /// JSON schemas.
    pub schemas: Vec<Value>,
}

impl Scan {
    pub(super) fn of(text: &str) -> Self {
        let mut scan = Self::default();
        let bytes = text.as_bytes();
        let (mut at, mut is_line_start, mut is_terminal) = (0, true, false);
        while let Some(&byte) = bytes.get(at) {
            let rest = &text[at..];
            let begins_line = is_line_start;
            is_line_start = byte == b'\n' || (is_line_start && byte.is_ascii_whitespace());
            let (len, is_item) = match byte {
                b'"' => (closed(bytes, at, b'"'), true),
                b'/' if rest.starts_with("//") => (line(rest), false),
                b'/' => (closed(bytes, at, b'/'), true),
                b'#' => (line(rest), false),
                b'<' => (special(rest), true),
                b'?' | b'*' | b'+' | b'~' => (1, true),
                b'%' => {
                    let name = 1 + word(&rest[1..]);
                    (name + scan.json(&rest[..name], &rest[name..]), false)
                }
                b'_' | b'!' | b'a'..=b'z' | b'A'..=b'Z' => {
                    let len = 1 + word(&rest[1..]);
                    let name = rest[..len].trim_start_matches(['_', '!', '?']);
                    if begins_line && rest[len..].trim_start_matches([' ', '\t']).starts_with(':') {
                        is_terminal = name.starts_with(|c: char| c.is_ascii_uppercase());
                    }
                    (len, true)
                }
                _ => (1, false),
            };
            scan.items += usize::from(is_item && !is_terminal);
            at += len;
            // Texts of other alphabets are no syntax.
            while !text.is_char_boundary(at.min(text.len())) {
                at += 1;
            }
        }
        scan
    }

    /// Notes the JSON behind a keyword, and says how long it is.
    fn json(&mut self, keyword: &str, rest: &str) -> usize {
        if !["%json", "%llguidance", "%regex"].contains(&keyword) {
            return 0;
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        // The compiler says what is wrong with one that is none.
        let Some(Ok(value)) = values.next() else {
            return 0;
        };
        if keyword == "%json" {
            self.schemas.push(value);
        }
        values.byte_offset()
    }
}

/// Bytes up to a closing quote that is not escaped, and it.
fn closed(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut len = 1;
    while let Some(&byte) = bytes.get(at + len) {
        match byte {
            b'\\' => len += 2,
            byte if byte == quote => return len + 1,
            _ => len += 1,
        }
    }
    len
}

fn line(rest: &str) -> usize {
    rest.find('\n').unwrap_or(rest.len())
}

/// A token such as `<|im_end|>`.
fn special(rest: &str) -> usize {
    let end = rest.find(|c: char| c == '>' || c.is_whitespace());
    end.map_or(1, |end| end + usize::from(rest[end..].starts_with('>')))
}

fn word(rest: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    rest.find(|c| !is_part(c)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_of_rules_are_counted() {
        for (text, items) in [
            ("start: \"a\"", 2),
            (
                "start: \"a? b\\\" c\" /x y\\/ z/? // one two\n  | other # three",
                5,
            ),
            ("start: <|im_end|> A\nA: \"x\" | \"y\" | \"z\"\nother: A", 5),
            ("start: \"\u{e9}\u{1f30d}\"* \u{e9}", 3),
            ("", 0),
            ("start: \"a", 2),
            ("start: /a\\", 2),
        ] {
            assert_eq!(Scan::of(text).items, items, "{text}");
        }
    }

    #[test]
    fn schemas_within_a_grammar_are_found() {
        let scan = Scan::of("start: a b\na: %json {\"const\": \"%json }\"}\nb: %json true \"x\"");
        assert_eq!(scan.schemas, [json!({ "const": "%json }" }), json!(true)]);
        assert_eq!(scan.items, 6);
        assert_eq!(
            Scan::of("start: \"%json {}\" // %json {}").schemas,
            [Value::Null; 0]
        );
        assert_eq!(Scan::of("start: %json {").schemas, [Value::Null; 0]);
    }
}
