//! `quest perplexity`

use std::path::PathBuf;

use clap::Args;
use quest_burn_models::generation::{
    LikelihoodMode, check_context, check_ids, negative_log_likelihoods,
};
use serde::Serialize;

use crate::{
    failure::Failure,
    ids,
    model::Plan,
    options::{CommonOptions, dtype_name, value_name},
    output::{Progress, Unit, print_json, print_line},
};

#[derive(Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    text: TextArgs,
    /// Prefills N tokens densely and scores the others as they are decoded, through the page
    /// policy [default: scores every token but the first, densely]
    #[arg(long, value_name = "N")]
    prefill: Option<usize>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct TextArgs {
    /// A file with the text
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// A JSON file with the text's token ids: an array, or an object with a field `ids`
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
}

impl TextArgs {
    fn read(&self, plan: &Plan) -> anyhow::Result<Vec<u32>> {
        match (&self.text, &self.ids) {
            (Some(path), _) => {
                let tokenizer = ids::tokenizer(plan.model.folder.path())?;
                ids::from_text_file(path, tokenizer.as_ref())
            }
            (_, Some(path)) => ids::from_json_file(path),
            (None, None) => unreachable!("one of the group is required"),
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Perplexity {
    nll: Vec<f32>,
    mean_nll: f64,
    perplexity: f64,
    tokens: usize,
    device: String,
    dtype: String,
    policy: String,
}

pub fn run(args: &PerplexityArgs) -> Result<(), Failure> {
    let plan = Plan::new(&args.common)?;
    let ids = args.text.read(&plan)?;
    check_ids(&ids, plan.model.config.vocab_size)?;
    check_context(ids.len(), 0, Some(plan.max_context()?))?;
    let mode = match args.prefill {
        Some(prefill) => LikelihoodMode::Decode { prefill },
        None => LikelihoodMode::Dense {
            chunk: args.common.model.prefill_chunk,
        },
    };
    mode.check(ids.len())?;

    let mut loaded = plan.load(ids.len())?;
    let total = ids.len() - args.prefill.unwrap_or(1);
    let mut progress = Progress::new("scoring", Unit::Tokens, total as u64);
    let nll = negative_log_likelihoods(
        &loaded.model,
        &mut loaded.cache,
        loaded.policy.as_ref(),
        &ids,
        mode,
        &mut |done| progress.set(done as u64),
    )?;
    drop(progress);

    let mean_nll = nll.iter().copied().map(f64::from).sum::<f64>() / nll.len() as f64;
    let result = Perplexity {
        mean_nll,
        perplexity: mean_nll.exp(),
        tokens: nll.len(),
        nll,
        device: value_name(loaded.device.name),
        dtype: dtype_name(loaded.dtype),
        policy: args.common.policy.policy.name().to_owned(),
    };
    if args.json {
        return print_json(&result);
    }
    print_line(&format!("perplexity  {:.4}", result.perplexity))?;
    print_line(&format!("mean NLL    {:.6} nats", result.mean_nll))?;
    print_line(&format!("tokens      {}", result.tokens))
}
