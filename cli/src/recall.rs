//! `quest recall`

use std::path::PathBuf;

use clap::Args;
use quest_burn_experiments::{
    passkey::PasskeyPrompt,
    recall::{self, RecallConfig},
    require_tokenizer,
    results::sha256,
};
use quest_burn_models::tokenizer::Tokenizer;
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    contenders::{ContenderDefaults, ContenderOptions},
    experiment::{ExperimentOptions, progress},
    failure::Failure,
    ids,
};

/// What `quest recall` compares by itself.
struct RecallDefaults;

impl ContenderDefaults for RecallDefaults {
    const BUDGETS: &'static str = "1/64,1/32,1/16,1/8";
    const POLICIES: &'static str = "quest,streaming,h2o,tova";
}

#[derive(Args)]
pub(crate) struct RecallArgs {
    /// A file with the text, `-` for stdin [default: the prompt of `quest passkey` with its answer, the passkey
    /// in the middle]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens of the text, from its beginning
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value_t = 4096)]
    length: usize,
    /// Last tokens of these, which are fed one by one and watched
    #[arg(long, value_name = "N", value_parser = count::any_tokens, default_value_t = 128)]
    steps: usize,
    #[command(flatten)]
    contenders: ContenderOptions<RecallDefaults>,
    #[command(flatten)]
    experiment: ExperimentOptions,
}

/// What results say about the run.
#[derive(Serialize)]
struct Settings<'a> {
    #[serde(flatten)]
    config: &'a RecallConfig,
    length: usize,
    text: String,
    ids_sha256: String,
}

impl RecallArgs {
    /// The text as ids.
    fn ids(&self, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, Failure> {
        let Some(path) = &self.text else {
            const PASSKEY: u32 = 31_415;
            let tokenizer = require_tokenizer(tokenizer)?;
            let prompt = PasskeyPrompt::answered(tokenizer, self.length, 0.5, PASSKEY)?;
            return Ok(prompt.ids);
        };
        let mut ids = ids::from_text_file(path, tokenizer)?;
        if ids.len() < self.length {
            let (expected, found) = (self.length, ids.len());
            let error = anyhow::anyhow!("expected at least {expected} tokens, found {found}");
            return Err(error.context(path.display().to_string()).into());
        }
        ids.truncate(self.length);
        Ok(ids)
    }
}

pub(crate) fn run(args: &RecallArgs) -> Result<(), Failure> {
    let plan = args.experiment.plan()?;
    let config = RecallConfig {
        steps: args.steps,
        budgets: args.contenders.budgets.clone(),
        policies: args.contenders.policies.clone(),
        prefill_chunk: args.experiment.model.prefill_chunk(),
        quest: args.contenders.quest_config(&args.experiment.selection),
        page_size: args.experiment.selection.page_size(),
    };
    let ids = args.ids(plan.tokenizer())?;
    config.check(plan.config(), ids.len())?;
    let loaded = plan.load(ids.len())?;
    let name = args.text.as_ref().and_then(|path| path.file_name());
    let settings = Settings {
        config: &config,
        length: ids.len(),
        text: name.map_or("passkey".into(), |name| name.to_string_lossy().into_owned()),
        ids_sha256: sha256(ids.iter().flat_map(|id| id.to_le_bytes())),
    };
    let (mut journal, run) = args.experiment.journal(&loaded, "recall", &settings)?;
    recall::run(
        &loaded.model,
        &config,
        &ids,
        &mut journal,
        &mut progress("recall"),
    )?;
    let rows = recall::rows(&config, ids.len(), journal.rows());
    args.experiment
        .report(&rows, &run, recall::table(&rows), || {
            let title = format!("What {} needs and policies read", run.model.name);
            recall::figure(&title, &rows)
        })
}
