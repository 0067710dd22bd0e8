use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ChatError, ChatTemplate, SpecialTokens};
use crate::config::fields::Fields;

/// The chat templates of a checkpoint, by name.
///
/// Most have one, `default`. Some have others for tools or documents.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatTemplates {
    origin: String,
    templates: BTreeMap<String, String>,
}

/// Field `chat_template`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a template or a list of named templates"
)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl ChatTemplates {
    /// The template that is taken where none is named.
    pub const DEFAULT: &str = "default";
    /// The template that is taken where there are tools, if it is there.
    pub const TOOL_USE: &str = "tool_use";
    /// The file that holds the default template alone.
    pub const FILE: &str = "chat_template.jinja";
    /// The folder of further templates.
    pub const FOLDER: &str = "additional_chat_templates";
    /// Files with a field `chat_template`; the first one counts where several have it.
    const CONFIGS: [&str; 2] = ["tokenizer_config.json", "chat_template.json"];

    /// One template, `default`. `origin` says in errors where it comes from.
    pub fn new(origin: impl Into<String>, template: impl Into<String>) -> Self {
        let template = (Self::DEFAULT.to_owned(), template.into());
        Self::named(origin, [template])
    }

    /// Templates by their names.
    pub fn named(
        origin: impl Into<String>,
        templates: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        Self {
            origin: origin.into(),
            templates: templates.into_iter().collect(),
        }
    }

    /// The template in a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, ChatError> {
        Ok(Self::new(path.display().to_string(), read(path)?))
    }

    /// The templates of a checkpoint's folder, if it has any: `chat_template.jinja` and
    /// `additional_chat_templates/`, or field `chat_template` of `tokenizer_config.json`, or of
    /// `chat_template.json`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is not JSON or holds something else in its field.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, ChatError> {
        if let Some(templates) = Self::from_jinja_files(dir)? {
            return Ok(Some(templates));
        }
        for file in Self::CONFIGS {
            let path = dir.join(file);
            if !path.is_file() {
                continue;
            }
            let origin = path.display().to_string();
            match Fields::read(&path)?.optional("chat_template")? {
                Some(Templates::One(template)) => return Ok(Some(Self::new(origin, template))),
                Some(Templates::Named(named)) if !named.is_empty() => {
                    let named = named.into_iter().map(|named| (named.name, named.template));
                    return Ok(Some(Self::named(origin, named)));
                }
                _ => (),
            }
        }
        Ok(None)
    }

    fn from_jinja_files(dir: &Path) -> Result<Option<Self>, ChatError> {
        let mut templates = BTreeMap::new();
        let (file, folder) = (dir.join(Self::FILE), dir.join(Self::FOLDER));
        if file.is_file() {
            templates.insert(Self::DEFAULT.to_owned(), read(&file)?);
        }
        if folder.is_dir() {
            for path in files(&folder)? {
                let name = path.file_stem().unwrap_or_default();
                templates.insert(name.to_string_lossy().into_owned(), read(&path)?);
            }
        }
        let origin = match file.is_file() {
            true => file,
            false => folder,
        };
        Ok((!templates.is_empty()).then(|| Self {
            origin: origin.display().to_string(),
            templates,
        }))
    }

    /// As field `chat_template` of a `tokenizer_config.json`.
    pub(crate) fn to_json(&self) -> Value {
        let mut templates = self.templates.iter();
        if let (Some((name, template)), None) = (templates.next(), templates.next())
            && name == Self::DEFAULT
        {
            return json!(template);
        }
        let named = self.templates.iter();
        let named = named.map(|(name, template)| json!({ "name": name, "template": template }));
        Value::Array(named.collect())
    }

    /// The names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The template of a name; without one, `tool_use` where there are tools and such a template,
    /// else `default`.
    ///
    /// # Errors
    ///
    /// When there is no such template, or it cannot be compiled.
    pub fn select(
        &self,
        name: Option<&str>,
        has_tools: bool,
        special_tokens: SpecialTokens,
    ) -> Result<ChatTemplate, ChatError> {
        let name = match name {
            Some(name) => name,
            None if has_tools && self.templates.contains_key(Self::TOOL_USE) => Self::TOOL_USE,
            None => Self::DEFAULT,
        };
        let Some(source) = self.templates.get(name) else {
            return Err(ChatError::Name {
                origin: self.origin.clone(),
                name: name.to_owned(),
                found: self.names().collect::<Vec<_>>().join(", "),
            });
        };
        ChatTemplate::new(&*self.origin, &**source, special_tokens)
    }
}

/// The templates of a folder, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, ChatError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|source| ChatError::Read {
        path: folder.into(),
        source,
    })?;
    let paths = entries.into_iter().map(|entry| entry.path());
    let mut paths = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jinja")
        })
        .collect::<Vec<_>>();
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, ChatError> {
    fs::read_to_string(path).map_err(|source| ChatError::Read {
        path: path.into(),
        source,
    })
}
