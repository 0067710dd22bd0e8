//! `quest longbench`

use std::path::PathBuf;

use anyhow::Error;
use clap::Args;
use quest_burn_experiments::longbench::{self, LongBenchConfig, Task, TaskData};
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    contenders::{ContenderDefaults, ContenderOptions},
    experiment::{ExperimentOptions, progress},
    failure::Failure,
};

/// What `quest longbench` compares by itself.
struct LongBenchDefaults;

impl ContenderDefaults for LongBenchDefaults {
    const BUDGETS: &'static str = "512,1024,2048,4096";
    const POLICIES: &'static str = "dense,quest,streaming,h2o,tova";
}

#[derive(Args)]
pub(crate) struct LongBenchArgs {
    /// Folder with LongBench's files, one per task: qasper.jsonl and so on
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The tasks
    #[arg(
        long,
        value_name = "T,..",
        value_delimiter = ',',
        default_value = "qasper,hotpotqa,gov_report,triviaqa,narrativeqa,multifieldqa_en"
    )]
    tasks: Vec<Task>,
    /// First records of each task that are answered [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    contenders: ContenderOptions<LongBenchDefaults>,
    /// Tokens that a prompt and its answer may take together; longer prompts lose their middle
    /// [default: the model's context]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    context: Option<usize>,
    #[command(flatten)]
    experiment: ExperimentOptions,
}

/// What results say about the run.
#[derive(Serialize)]
struct Settings<'a> {
    #[serde(flatten)]
    config: &'a LongBenchConfig,
    tasks: Vec<TaskInfo<'a>>,
}

#[derive(Serialize)]
struct TaskInfo<'a> {
    task: Task,
    records: usize,
    sha256: &'a str,
}

impl LongBenchArgs {
    /// The records of every task that was named, each task once.
    fn read(&self) -> Result<Vec<TaskData>, Failure> {
        let limit = self.limit.map(|limit| limit as usize);
        let mut all = Vec::<TaskData>::new();
        for &task in &self.tasks {
            if all.iter().any(|data| data.task == task) {
                continue;
            }
            let data = TaskData::read(&self.data, task, limit);
            all.push(data.map_err(Error::new)?);
        }
        Ok(all)
    }
}

pub(crate) fn run(args: &LongBenchArgs) -> Result<(), Failure> {
    let data = args.read()?;
    let plan = args.experiment.plan()?;
    let config = LongBenchConfig {
        policies: args.contenders.policies.clone(),
        budgets: args.contenders.budgets.clone(),
        context: args.context.unwrap_or(plan.config().max_positions),
        prefill_chunk: args.experiment.model.prefill_chunk(),
        quest: args.contenders.quest_config(&args.experiment.selection),
        page_size: args.experiment.selection.page_size(),
    };
    config.check(plan.config(), plan.tokenizer())?;
    let loaded = plan.load(config.context)?;
    let tasks = data.iter().map(|data| TaskInfo {
        task: data.task,
        records: data.records.len(),
        sha256: &data.sha256,
    });
    let settings = Settings {
        config: &config,
        tasks: tasks.collect(),
    };
    let (mut journal, run) = args.experiment.journal(&loaded, "longbench", &settings)?;
    longbench::run(
        &loaded.model,
        &config,
        &data,
        &mut journal,
        &mut progress("longbench"),
    )?;
    let rows = longbench::rows(&config, &data, journal.rows());
    args.experiment
        .report(&rows, &run, longbench::table(&rows), || {
            longbench::figure(&format!("LongBench, {}", run.model.name), &rows)
        })
}
