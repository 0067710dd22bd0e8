//! A text to be scored, in a file.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use quest_burn_experiments::results::sha256;
use quest_burn_models::tokenizer::Tokenizer;
use quest_burn_report::count;
use serde::Serialize;

use crate::ids;

#[derive(Args)]
pub(crate) struct TextOptions {
    #[command(flatten)]
    source: TextSource,
    /// Tokens of the text, from its beginning [default: all]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    pub length: Option<usize>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct TextSource {
    /// A file with the text; `-` for stdin
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A JSON file with the text's token ids: an array, or an object with a field `ids`; `-` for
    /// stdin
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
}

/// Which text it was.
#[derive(Serialize)]
pub(crate) struct TextInfo {
    text: String,
    length: usize,
    ids_sha256: String,
}

impl TextOptions {
    /// The ids of the text.
    pub(crate) fn read(&self, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Vec<u32>> {
        let mut ids = match (&self.source.text, &self.source.ids) {
            (Some(path), _) => ids::from_text_file(path, tokenizer)?,
            (_, Some(path)) => ids::from_json_file(path)?,
            (None, None) => unreachable!("one of the group is required"),
        };
        if let Some(length) = self.length {
            if ids.len() < length {
                let (path, found) = (self.path().display(), ids.len());
                bail!("{path}: expected at least {length} tokens, found {found}");
            }
            ids.truncate(length);
        }
        Ok(ids)
    }

    /// What results say about the text.
    pub(crate) fn info(&self, ids: &[u32]) -> TextInfo {
        let name = self.path().file_name().unwrap_or_default();
        TextInfo {
            text: name.to_string_lossy().into_owned(),
            length: ids.len(),
            ids_sha256: sha256(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
    }

    fn path(&self) -> &PathBuf {
        let path = self.source.text.as_ref().or(self.source.ids.as_ref());
        path.expect("one of the group is required")
    }
}
