//! What the user says, line by line.

use std::io::{self, BufRead, IsTerminal};

use anyhow::{Context, anyhow};

/// Where lines come from.
pub(super) enum Lines {
    /// A file or another program: a line is a turn.
    Plain,
    /// A terminal whose lines are edited by the system.
    #[cfg(not(feature = "line-editing"))]
    Terminal,
    /// A terminal, with a history.
    #[cfg(feature = "line-editing")]
    Editor(Box<editor::Editor>),
}

/// What comes next.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    Text(String),
    /// Ctrl-C where nothing is answered.
    #[cfg_attr(not(feature = "line-editing"), allow(dead_code))]
    Interrupted,
    End,
}

impl Lines {
    /// Stdin.
    pub(super) fn open() -> anyhow::Result<Self> {
        match io::stdin().is_terminal() {
            false => Ok(Self::Plain),
            #[cfg(not(feature = "line-editing"))]
            true => Ok(Self::Terminal),
            #[cfg(feature = "line-editing")]
            true => Ok(Self::Editor(Box::new(editor::open()?))),
        }
    }

    /// Whether a person types them.
    pub(super) fn is_terminal(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// The next line.
    pub(super) fn read(&mut self) -> anyhow::Result<Line> {
        match self {
            Self::Plain => plain(&mut io::stdin().lock()),
            #[cfg(not(feature = "line-editing"))]
            Self::Terminal => {
                eprint!("{PROMPT}");
                plain(&mut io::stdin().lock())
            }
            #[cfg(feature = "line-editing")]
            Self::Editor(editor) => editor::read(editor),
        }
    }
}

/// What a person types behind.
const PROMPT: &str = "> ";

fn plain(input: &mut impl BufRead) -> anyhow::Result<Line> {
    let mut bytes = Vec::new();
    input.read_until(b'\n', &mut bytes).context("stdin")?;
    if bytes.is_empty() {
        return Ok(Line::End);
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| anyhow!("stdin: expected lines in UTF-8, found other bytes"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Line::Text(
        text.strip_suffix('\r').unwrap_or(text).to_owned(),
    ))
}

#[cfg(feature = "line-editing")]
mod editor {
    use anyhow::Context;
    use rustyline::{Config, Editor as LineEditor, error::ReadlineError, history::MemHistory};

    use super::{Line, PROMPT};

    pub(super) type Editor = LineEditor<(), MemHistory>;

    pub(super) fn open() -> anyhow::Result<Editor> {
        let config = Config::default();
        let history = MemHistory::with_config(&config);
        LineEditor::with_history(config, history).context("terminal")
    }

    pub(super) fn read(editor: &mut Editor) -> anyhow::Result<Line> {
        match editor.readline(PROMPT) {
            Ok(text) => {
                editor.add_history_entry(&text).context("terminal")?;
                Ok(Line::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(error).context("terminal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_without_their_ends_until_there_is_none() {
        let mut input = &b"a b \r\n\n\xc3\xa9"[..];
        let mut next = || plain(&mut input).unwrap();
        assert_eq!(next(), Line::Text("a b ".into()));
        assert_eq!(next(), Line::Text(String::new()));
        assert_eq!(next(), Line::Text("\u{e9}".into()));
        assert_eq!(next(), Line::End);
        let error = plain(&mut &b"\xff\n"[..]).unwrap_err().to_string();
        assert_eq!(error, "stdin: expected lines in UTF-8, found other bytes");
    }
}
