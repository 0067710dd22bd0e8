//! `quest demo`

use clap::Args;
use quest_burn_experiments::{
    budget::Budget,
    demo::{self, Demo, DemoConfig, page_map},
    results::RunInfo,
};
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    experiment::{ExperimentPlan, progress},
    failure::Failure,
    options::{LayerOptions, ModelOptions, SelectionOptions},
    output::{print_json, print_line},
};

#[derive(Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    selection: SelectionOptions,
    #[command(flatten)]
    layers: LayerOptions,
    /// Tokens of the text and the answer together [default: 16384, or as many as the model was made
    /// for]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    length: Option<usize>,
    /// Tokens that a decoded token attends to through Quest, or a share of the length
    #[arg(long, value_name = "B", default_value = "1/16")]
    budget: Budget,
    /// Where the passkey is hidden, from 0 (at the beginning) to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.4)]
    depth: f64,
    /// Seed of the passkey
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    demo: &'a Demo,
    run: &'a RunInfo,
}

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    const LENGTH: usize = 16_384;
    args.model.prefill.refuse_lazy("demo")?;
    let plan = ExperimentPlan::new(&args.model, &args.selection)?;
    let max = plan.config().max_positions;
    let config = DemoConfig {
        length: args.length.unwrap_or(LENGTH.min(max)),
        budget: args.budget,
        depth: args.depth,
        tail: 400,
        answer_tokens: 10,
        prefill_chunk: args.model.prefill_chunk(),
        quest: args.selection.quest_config(args.layers.dense_layers),
        page_size: args.selection.page_size(),
        seed: args.seed,
    };
    config.check(plan.config(), plan.tokenizer())?;
    let loaded = plan.load(config.length)?;
    let run = loaded.run_info("demo", args.seed, &config)?;
    let demo = demo::run(&loaded.model, &config, &mut progress("demo"))?;
    if args.json {
        return print_json(&Output {
            demo: &demo,
            run: &run,
        });
    }
    print(&demo)
}

fn print(demo: &Demo) -> Result<(), Failure> {
    let verdict = |number: Option<u64>| match number == Some(demo.passkey.into()) {
        true => "right",
        false => "wrong",
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let lines = [
        ("passkey", demo.passkey.to_string()),
        (
            "text",
            format!(
                "{} tokens, prefilled in {:.1} s",
                demo.tokens, demo.prefill_s
            ),
        ),
        (
            "dense",
            format!(
                "{:?} ({}), {:.2} ms per token",
                demo.answer_dense,
                verdict(demo.number_dense),
                demo.ms_per_token_dense
            ),
        ),
        (
            "Quest",
            format!(
                "{:?} ({}), {:.2} ms per token",
                demo.answer_quest,
                verdict(demo.number_quest),
                demo.ms_per_token_quest
            ),
        ),
        (
            "cache read",
            format!(
                "{} in the layers with a budget of {} tokens, digests included; {} of all layers",
                percent(demo.share_read_sparse_layers),
                demo.budget,
                percent(demo.share_read)
            ),
        ),
    ];
    for (name, value) in lines {
        print_line(&format!("{name:<11} {value}"))?;
    }
    let (_, columns) = console::Term::stdout().size();
    print_line("")?;
    print_line(&format!(
        "Pages that Quest read for the first digit of its answer, of {} from the beginning of the \
         text to",
        demo.n_pages
    ))?;
    print_line("its end, and how many of those with the passkey are among them:")?;
    print_line(&page_map(demo, usize::from(columns).min(160)))
}
