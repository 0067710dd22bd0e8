//! Texts rendered by transformers.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use jiff::{Zoned, civil::date, tz::TimeZone};
use minijinja::Value;
use serde::{Deserialize, de::DeserializeOwned};

use crate::chat::{ChatTemplate, Conversation, Message, SpecialTokens};

/// `cases.json`
#[derive(Deserialize)]
struct Cases {
    special_tokens: BTreeMap<String, String>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    #[serde(default)]
    add_generation_prompt: bool,
    #[serde(default)]
    variables: BTreeMap<String, Value>,
}

/// What transformers makes of a case.
#[derive(Deserialize)]
struct Golden {
    text: Option<String>,
    /// What the template raises.
    raised: Option<String>,
}

/// The time at which the golden texts were rendered.
fn clock() -> Zoned {
    let time = date(2026, 3, 7).at(14, 5, 9, 0);
    time.to_zoned(TimeZone::UTC).unwrap()
}

impl Case {
    fn conversation(&self) -> Conversation {
        Conversation {
            messages: self.messages.clone(),
            tools: self.tools.clone(),
            documents: self.documents.clone(),
            add_generation_prompt: self.add_generation_prompt,
            variables: self.variables.clone(),
        }
    }
}

/// Templates of a folder that have golden texts beside them.
fn templates(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths = paths
        .filter(|path| path.extension().is_some_and(|name| name == "jinja"))
        .filter(|path| path.with_extension("json").is_file())
        .collect::<Vec<_>>();
    paths.sort();
    paths
}

fn parsed<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Compares every case of every template of a folder: how many there are, and those that differ.
fn compare(folder: &Path) -> (usize, Vec<String>) {
    let cases: Cases = parsed(&folder.join("cases.json"));
    let special = cases.special_tokens.iter();
    let special = special.fold(SpecialTokens::default(), |special, (name, text)| {
        special.with(name, text)
    });
    let (mut n, mut differences) = (0, Vec::new());
    for path in templates(folder) {
        let source = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let template = ChatTemplate::with_clock(name, source, special.clone(), clock);
        let goldens: BTreeMap<String, Golden> = parsed(&path.with_extension("json"));
        for (case, golden) in &goldens {
            n += 1;
            let found = match &template {
                Ok(template) => {
                    let found = template.render(&cases.cases[case].conversation());
                    found.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let is_equal = match (&golden.text, &golden.raised, &found) {
                (Some(text), _, Ok(found)) => text == found,
                (_, Some(message), Err(found)) => found.ends_with(message),
                (None, None, _) => {
                    // Python fails for reasons of its own.
                    n -= 1;
                    true
                }
                _ => false,
            };
            if !is_equal {
                let expected = golden.text.as_ref().or(golden.raised.as_ref());
                differences.push(format!(
                    "{}, {case}:\nexpected {expected:?}\nfound    {found:?}",
                    path.display()
                ));
            }
        }
    }
    (n, differences)
}

#[test]
fn templates_are_rendered_as_transformers_renders_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat_templates");
    let (n, differences) = compare(&folder);
    assert!(n > 0, "no case was compared");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Templates of others are not part of this repository. A folder of them, with golden texts that
/// `tests/chat_templates/golden.py` wrote, can be named.
#[test]
fn templates_of_a_named_folder_are_rendered_as_transformers_renders_them() {
    let Some(folder) = std::env::var_os("QUEST_BURN_CHAT_TEMPLATES") else {
        println!("SKIPPED: QUEST_BURN_CHAT_TEMPLATES names no folder");
        return;
    };
    let (n, differences) = compare(Path::new(&folder));
    println!("{n} texts compared");
    assert!(n > 0, "no case was compared");
    assert!(
        differences.is_empty(),
        "{} of {n}:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
