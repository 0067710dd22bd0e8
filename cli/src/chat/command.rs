//! Lines that are commands.

use std::path::PathBuf;

use anyhow::{Context, bail};
use quest_burn::policy::PolicyKind;
use quest_burn_report::count;

/// What `/help` prints.
pub(super) const HELP: &str = "\
/help            this list
/reset           forgets the conversation
/undo            forgets the last question and its answer
/retry           answers the last question again
/save FILE       writes the conversation as JSON
/load FILE       continues the conversation in a file
/file FILE       puts a document in front of the next question
/policy [NAME]   what decoded tokens attend to
/budget [N]      how many tokens that are
/stats           pages, what is read of them, speed and memory
/quit            ends the program
A line that begins with // is a question that begins with /.";

#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Help,
    Reset,
    Undo,
    Retry,
    Save(PathBuf),
    Load(PathBuf),
    File(PathBuf),
    /// Shows the policy, or changes it.
    Policy(Option<PolicyKind>),
    /// Shows the budget, or changes it.
    Budget(Option<usize>),
    Stats,
    Quit,
}

/// A line of the user.
#[derive(Debug, PartialEq)]
pub(super) enum Turn {
    Command(Command),
    Question(String),
    /// A line without text.
    Nothing,
}

impl Turn {
    pub(super) fn parse(line: &str) -> anyhow::Result<Self> {
        if line.trim().is_empty() {
            return Ok(Self::Nothing);
        }
        match line.strip_prefix('/') {
            None => Ok(Self::Question(line.to_owned())),
            Some(text) if text.starts_with('/') => Ok(Self::Question(text.to_owned())),
            Some(command) => Ok(Self::Command(Command::parse(command.trim())?)),
        }
    }
}

impl Command {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
        let file = || match argument {
            Some(path) => Ok(PathBuf::from(path)),
            None => bail!("/{name}: expected a file, found none"),
        };
        let alone = |command| match argument {
            None => Ok(command),
            Some(found) => bail!("/{name}: expected nothing behind it, found `{found}`"),
        };
        match name {
            "help" => alone(Self::Help),
            "reset" => alone(Self::Reset),
            "undo" => alone(Self::Undo),
            "retry" => alone(Self::Retry),
            "stats" => alone(Self::Stats),
            "quit" | "exit" => alone(Self::Quit),
            "save" => Ok(Self::Save(file()?)),
            "load" => Ok(Self::Load(file()?)),
            "file" => Ok(Self::File(file()?)),
            "policy" => Ok(Self::Policy(argument.map(str::parse).transpose()?)),
            "budget" => {
                let budget = argument.map(count::tokens).transpose();
                Ok(Self::Budget(
                    budget.map_err(anyhow::Error::msg).context("/budget")?,
                ))
            }
            _ => bail!("/{name}: expected a command, see /help"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_questions_or_commands() {
        for (line, turn) in [
            ("", Turn::Nothing),
            ("  \t", Turn::Nothing),
            ("deep sea", Turn::Question("deep sea".into())),
            (" /undo", Turn::Question(" /undo".into())),
            ("//etc is", Turn::Question("/etc is".into())),
            ("/undo ", Turn::Command(Command::Undo)),
            (
                "/save a b.json",
                Turn::Command(Command::Save("a b.json".into())),
            ),
            ("/policy", Turn::Command(Command::Policy(None))),
            (
                "/policy dense",
                Turn::Command(Command::Policy(Some(PolicyKind::Dense))),
            ),
            ("/budget 4K", Turn::Command(Command::Budget(Some(4096)))),
            ("/exit", Turn::Command(Command::Quit)),
        ] {
            assert_eq!(Turn::parse(line).unwrap(), turn, "{line}");
        }
    }

    #[test]
    fn commands_that_are_none_say_what_was_expected() {
        for (line, message) in [
            ("/", "expected a command, see /help"),
            ("/undoo", "/undoo: expected a command, see /help"),
            ("/undo 2", "/undo: expected nothing behind it, found `2`"),
            ("/save", "/save: expected a file, found none"),
            ("/policy fast", "policy: expected one of dense, quest"),
            ("/budget many", "/budget"),
        ] {
            let error = format!("{:#}", Turn::parse(line).unwrap_err());
            assert!(error.contains(message), "{line}: {error}");
        }
    }
}
