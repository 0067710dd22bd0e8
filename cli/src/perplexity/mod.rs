//! `quest perplexity`

mod compare;

use anyhow::{anyhow, bail};
use clap::Args;
use quest_burn::policy::PolicyKind;
use quest_burn_experiments::perplexity::mean;
use quest_burn_models::{
    activation_sparsity::ActivationSparsity,
    generation::{LikelihoodMode, check_context, check_ids},
};
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    device::value_name,
    failure::Failure,
    memory::Work,
    model::Plan,
    options::{ChannelOptions, CommonOptions},
    output::{Progress, Unit, print_json, print_line},
    text::TextOptions,
};

use compare::ComparisonOptions;

#[derive(Args)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    text: TextOptions,
    /// Prefills N tokens and scores the others as they are decoded, through the page policy [default: scores
    /// every token but the first; one policy as a prompt, several by decoding]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    prefill: Option<usize>,
    #[command(flatten)]
    comparison: ComparisonOptions,
    #[command(flatten)]
    channels: ChannelOptions,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
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
    weights: &'static str,
    /// Share of the channels that were to be skipped in decoded tokens.
    activation_sparsity: Option<f64>,
    policy: String,
    prefill_policy: String,
    /// Share of the tokens that a layer has computed, in the mean of the layers.
    share_computed: f64,
}

pub(crate) fn run(args: PerplexityArgs) -> Result<(), Failure> {
    let skips = args.channels.are_given();
    if skips && args.comparison.is_asked_for() {
        let error = anyhow!("--activation-sparsity: expected one policy, found --policies");
        return Err(error.into());
    }
    if skips && args.prefill.is_none() {
        let error = anyhow!(
            "--activation-sparsity: expected --prefill N with it, found none: the text is scored as a prompt, \
             which reads all channels"
        );
        return Err(error.into());
    }
    if args.comparison.is_asked_for() {
        compare::run(args)
    } else {
        score(&args)
    }
}

/// The policy that scores the text: dense attention where no token is decoded, and then no other is
/// to be asked for; what prompts attend to is asked for otherwise.
fn policy(args: &PerplexityArgs) -> anyhow::Result<PolicyKind> {
    let asked = &args.common.policy;
    if args.prefill.is_some() {
        return Ok(asked.kind());
    }
    let sparse = asked.policy.filter(|&policy| policy != PolicyKind::Dense);
    let option = match (sparse, asked.token_budget) {
        (Some(policy), _) => format!("--policy {policy}"),
        (None, Some(budget)) => format!("--token-budget {budget}"),
        (None, None) => return Ok(PolicyKind::Dense),
    };
    bail!("{option}: expected --prefill N with it, found none: the text is scored as a prompt")
}

/// Scores the text through one policy.
fn score(args: &PerplexityArgs) -> Result<(), Failure> {
    let policy = policy(args)?;
    if args.prefill.is_none() {
        let prefill = &args.common.model.prefill;
        prefill.refuse_lazy("a text that is scored as a prompt (no --prefill N)")?;
    }
    let plan = Plan::new(&args.common)?.with_channels(&args.channels)?;
    let ids = args.text.read(plan.model.model.tokenizer())?;
    check_ids(&ids, plan.model.config().vocab_size)?;
    check_context(ids.len(), 0, Some(plan.max_context()?))?;
    let chunk = args.common.model.prefill_chunk();
    let mode = match args.prefill {
        Some(prefill) => LikelihoodMode::Decode { prefill, chunk },
        None => LikelihoodMode::Dense { chunk },
    };
    mode.check(ids.len())?;

    let work = match mode {
        LikelihoodMode::Decode { prefill, chunk } => Work::chunk(chunk.min(prefill)),
        LikelihoodMode::Dense { chunk } => Work {
            logits: chunk,
            ..Work::chunk(chunk)
        },
    };
    let (mut session, device) = plan.load(ids.len(), 0, work)?;
    let total = ids.len() - args.prefill.unwrap_or(1);
    let mut progress = Progress::new("scoring", Unit::Tokens, total as u64);
    let nll = session.likelihoods(&ids, mode, &mut |done| progress.set(done as u64))?;
    drop(progress);

    let mean_nll = mean(&nll);
    let result = Perplexity {
        mean_nll,
        perplexity: mean_nll.exp(),
        tokens: nll.len(),
        nll,
        device: value_name(device.name),
        dtype: session.model().dtype().name().to_owned(),
        weights: session.model().weights_name(),
        activation_sparsity: (session.model().activation_sparsity())
            .map(ActivationSparsity::sparsity),
        policy: policy.name().to_owned(),
        prefill_policy: session.model().prefill().to_string(),
        share_computed: session.statistics().share_computed,
    };
    if args.json {
        return print_json(&result);
    }
    print_line(&format!("perplexity  {:.4}", result.perplexity))?;
    print_line(&format!("mean NLL    {:.6} nats", result.mean_nll))?;
    print_line(&format!("tokens      {}", result.tokens))?;
    match args.common.model.prefill.is_lazy() {
        true => print_line(&format!(
            "computed    {:.1} % of tokens times layers",
            100.0 * result.share_computed
        )),
        false => Ok(()),
    }
}
