//! What the experiments have in common: options, a model to experiment with, and results.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use quest_burn_experiments::{
    Progress,
    results::{Build, Journal, ModelInfo, RunInfo},
};
use quest_burn_models::{config::ModelConfig, local::LocalModel, tokenizer::Tokenizer};
use quest_burn_report::{file::check_writable, plot::Figure};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    device::value_name,
    failure::Failure,
    memory::Work,
    model::ModelPlan,
    options::{ModelOptions, SelectionOptions},
    output::{self, Unit, print_json, print_line},
};

/// Options of every experiment.
#[derive(Args)]
pub(crate) struct ExperimentOptions {
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub selection: SelectionOptions,
    /// Seed of what is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Keeps every row in FILE as soon as it is there, and resumes from the rows that FILE holds
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Draws the results into an SVG file
    #[arg(long, value_name = "F.svg")]
    pub plot: Option<PathBuf>,
    /// Prints one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A model to experiment with, before its weights are there: what a command asks for is checked
/// with it.
pub(crate) struct ExperimentPlan<'a> {
    model: ModelPlan<'a>,
}

/// A model to experiment with, and what results say about it.
pub(crate) struct ExperimentModel {
    pub model: LocalModel,
    info: ModelInfo,
    device: String,
}

impl ExperimentOptions {
    /// Reads everything but the weights. Refuses at once what would fail after all has been
    /// computed.
    pub(crate) fn plan(&self) -> Result<ExperimentPlan<'_>, Failure> {
        for path in [&self.plot, &self.resume].into_iter().flatten() {
            check_writable(path).with_context(|| {
                format!("{}: expected a file that can be written", path.display())
            })?;
        }
        Ok(ExperimentPlan::new(&self.model, &self.selection)?)
    }

    /// The rows that there are, and what a run with these settings carries.
    pub(crate) fn journal<R: Serialize + DeserializeOwned>(
        &self,
        loaded: &ExperimentModel,
        experiment: &str,
        settings: &impl Serialize,
    ) -> Result<(Journal<R>, RunInfo), Failure> {
        let run = loaded.run_info(experiment, self.seed, settings)?;
        let journal = Journal::<R>::open(self.resume.as_deref(), &run)?;
        if !journal.rows().is_empty() {
            eprintln!("resumed: {} rows are there", journal.rows().len());
        }
        Ok((journal, run))
    }

    /// Prints results as a table or as JSON, and draws them if that was asked for.
    pub(crate) fn report<R: Serialize>(
        &self,
        rows: &[R],
        run: &RunInfo,
        table: impl std::fmt::Display,
        figure: impl FnOnce() -> Figure,
    ) -> Result<(), Failure> {
        let printed = if self.json {
            print_json(&Results { rows, run })
        } else {
            print_line(&table.to_string())
        };
        // Drawn even if nobody reads the rows.
        if let Some(path) = &self.plot {
            figure().save(path)?;
            eprintln!("plot: {}", path.display());
        }
        printed
    }
}

impl<'a> ExperimentPlan<'a> {
    /// Reads everything but the weights.
    pub(crate) fn new(
        options: &'a ModelOptions,
        selection: &'a SelectionOptions,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            model: ModelPlan::new(options, selection)?,
        })
    }

    /// The model's configuration.
    pub(crate) fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// The model's tokenizer, if it has one.
    pub(crate) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.model.model.tokenizer()
    }

    /// Loads the model for contexts of up to `tokens` tokens.
    pub(crate) fn load(self, tokens: usize) -> Result<ExperimentModel, Failure> {
        let work = Work::chunk(self.model.options.prefill_chunk());
        let loaded = self.model.load(tokens, work)?;
        loaded.report(tokens);
        Ok(ExperimentModel {
            info: self.model.folder.info(loaded.model.config())?,
            device: value_name(loaded.device.name),
            model: loaded.model,
        })
    }
}

impl ExperimentModel {
    /// What a run with this model carries.
    pub(crate) fn run_info(
        &self,
        experiment: &str,
        seed: u64,
        settings: &impl Serialize,
    ) -> Result<RunInfo, Failure> {
        Ok(RunInfo {
            experiment: experiment.to_owned(),
            model: self.info.clone(),
            build: Build {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit: option_env!("QUEST_COMMIT").map(str::to_owned),
            },
            device: self.device.clone(),
            dtype: self.model.dtype().name().to_owned(),
            digest: self.model.digest().to_string(),
            digests: self.model.digest_storage().to_string(),
            kv_cache: self.model.kv_storage().to_string(),
            weights: self.model.weights_name().to_owned(),
            prefill: self.model.prefill().to_string(),
            seed,
            settings: serde_json::to_value(settings).map_err(Failure::internal)?,
        })
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Results<'a, R> {
    rows: &'a [R],
    run: &'a RunInfo,
}

/// Progress of an experiment on stderr.
pub(crate) fn progress(label: &'static str) -> impl FnMut(Progress) {
    let mut bar = None;
    move |progress| {
        let total = progress.total as u64;
        let bar = bar.get_or_insert_with(|| output::Progress::new(label, Unit::Rows, total));
        bar.note(match progress.prefilled {
            Some((done, all)) => format!("prefill {done} of {all} tokens"),
            None => String::new(),
        });
        bar.set(progress.done as u64);
    }
}
