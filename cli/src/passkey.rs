//! `quest passkey`

use clap::Args;
use quest_burn_experiments::passkey::{self, PasskeyConfig};
use quest_burn_report::count;

use crate::{
    contenders::{ComparisonDefaults, ComparisonOptions, ContenderDefaults},
    experiment::{ExperimentOptions, progress},
    failure::Failure,
};

/// What `quest passkey` compares by itself.
struct PasskeyDefaults;

impl ContenderDefaults for PasskeyDefaults {
    const BUDGETS: &'static str = "1/16,1/64";
    const POLICIES: &'static str = "dense,quest,streaming,h2o,tova";
}

impl ComparisonDefaults for PasskeyDefaults {
    const LENGTHS: &'static str = "1024,4096,16384";
}

#[derive(Args)]
pub(crate) struct PasskeyArgs {
    #[command(flatten)]
    comparison: ComparisonOptions<PasskeyDefaults>,
    /// Evenly spaced places of the passkey, the last one at the end of the text
    #[arg(long, value_name = "N", default_value_t = 10)]
    depths: usize,
    /// Passkeys for each length and depth
    #[arg(long, value_name = "N", default_value_t = 1)]
    trials: usize,
    /// Numbers that a text hides; with several, each has an owner, and one is asked for
    #[arg(long, value_name = "N", default_value_t = 1)]
    keys: usize,
    /// Characters at the end of the prompt that are fed token by token through the policy
    #[arg(long, value_name = "N", default_value_t = 400)]
    tail: usize,
    /// Tokens of an answer
    #[arg(long, value_name = "N", value_parser = count::any_tokens, default_value_t = 10)]
    answer_tokens: usize,
    #[command(flatten)]
    experiment: ExperimentOptions,
}

impl PasskeyArgs {
    fn config(&self) -> PasskeyConfig {
        PasskeyConfig {
            comparison: self.comparison.comparison(&self.experiment),
            depths: self.depths,
            trials: self.trials,
            keys: self.keys,
            tail: self.tail,
            answer_tokens: self.answer_tokens,
            seed: self.experiment.seed,
        }
    }
}

pub(crate) fn run(args: &PasskeyArgs) -> Result<(), Failure> {
    let config = args.config();
    let plan = args.experiment.plan()?;
    config.check(plan.config(), plan.tokenizer())?;
    let longest = config.comparison.lengths.iter().copied().max().unwrap_or(0);
    let loaded = plan.load(longest)?;
    let (mut journal, run) = args.experiment.journal(&loaded, "passkey", &config)?;
    passkey::run(
        &loaded.model,
        &config,
        &mut journal,
        &mut progress("passkey"),
    )?;
    let rows = passkey::rows(&config, journal.rows());
    args.experiment
        .report(&rows, &run, passkey::table(&rows), || {
            let title = match args.keys {
                1 => format!("Passkey retrieval, {}", run.model.name),
                n => format!("Passkey retrieval among {n} keys, {}", run.model.name),
            };
            passkey::figure(&title, &rows)
        })
}
