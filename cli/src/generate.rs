//! `quest generate`

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use quest_burn_models::{
    activation_sparsity::ActivationSparsity,
    chat::Message,
    generation::{Finish, GenerationConfig, Timings},
    session::{IdStream, TextStream},
    speculative::DraftStatistics,
    tokenizer::Tokenizer,
};
use quest_burn_report::count;
use serde::Serialize;

use crate::{
    chat::prompt::{Prompter, TemplateOptions},
    device::value_name,
    failure::Failure,
    grammar::GrammarOptions,
    ids,
    memory::Work,
    model::Plan,
    options::{ChannelOptions, CommonOptions, LosslessOptions, SamplingOptions},
    output::{Progress, Unit, per_second, print_json, print_line, print_part},
};

#[derive(Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    prompt: PromptArgs,
    /// New tokens at most
    #[arg(
        long,
        value_name = "N",
        value_parser = count::any_tokens,
        default_value_t = GenerationConfig::new().max_new_tokens
    )]
    max_new_tokens: usize,
    /// Continues after the checkpoint's stop tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Asks the prompt as a question, through the checkpoint's chat template
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    template: TemplateOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    lossless: LosslessOptions,
    #[command(flatten)]
    channels: ChannelOptions,
    #[command(flatten)]
    grammar: GrammarOptions,
    /// Prints one JSON object at the end instead of text as it comes
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// The prompt; an empty one is the token that texts begin with, where the tokenizer has one
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the prompt; `-` for stdin
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// A JSON file with the prompt's token ids: an array, or an object with a field `ids`; `-` for
    /// stdin
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Compiles the kernels that prompts and answers of this model need, keeps them for later runs,
    /// and ends
    #[arg(long)]
    warm_up: bool,
}

impl PromptArgs {
    /// The text of the prompt, as a question.
    fn question(&self) -> anyhow::Result<String> {
        match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => Ok(text.clone()),
            (_, Some(path)) => ids::text_file(path),
            (None, None) => bail!("--chat: expected a prompt of text, found token ids"),
        }
    }

    fn read(&self, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Vec<u32>> {
        match (&self.prompt, &self.prompt_file, &self.ids) {
            (Some(text), _, _) => ids::from_text(text, tokenizer),
            (_, Some(path), _) => ids::from_text_file(path, tokenizer),
            (_, _, Some(path)) => ids::from_json_file(path),
            (None, None, None) => Ok(Vec::new()),
        }
    }
}

impl GenerateArgs {
    /// Ids of the prompt, and stop tokens where they are not the checkpoint's.
    fn read_prompt(&self, plan: &Plan) -> anyhow::Result<(Vec<u32>, Option<Vec<u32>>)> {
        if !self.chat {
            self.template.refuse("--chat")?;
            let tokenizer = plan.model.model.tokenizer();
            return Ok((self.prompt.read(tokenizer)?, None));
        }
        let prompter = Prompter::new(&plan.model, &self.template)?;
        let question = Message::user(self.prompt.question()?);
        let messages = prompter.system().into_iter().chain([question]);
        let ids = prompter.ids(&messages.collect::<Vec<_>>())?;
        Ok((ids, Some(prompter.stop_ids().to_vec())))
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Generation {
    ids: Vec<u32>,
    text: Option<String>,
    prefill_tokens_per_s: Option<f64>,
    decode_tokens_per_s: Option<f64>,
    prompt_tokens: usize,
    finish: &'static str,
    device: String,
    dtype: String,
    weights: &'static str,
    /// Share of the channels that were to be skipped in decoded tokens.
    activation_sparsity: Option<f64>,
    policy: String,
    prefill_policy: String,
    /// Share of the tokens that a layer has computed, in the mean of the layers.
    share_computed: f64,
    kv_cache_bytes: u64,
    /// Share of the drafted tokens that dense attention took, with `--lossless`.
    draft_acceptance: Option<f64>,
    tokens_per_dense_pass: Option<f64>,
}

pub(crate) fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let lossless = args.lossless.config(&args.common.model.prefill)?;
    let plan = Plan::new(&args.common)?.with_channels(&args.channels)?;
    if args.prompt.warm_up {
        return warm_up(&plan, args);
    }
    let (prompt, stop_ids) = args.read_prompt(&plan)?;
    let config = GenerationConfig {
        max_new_tokens: args.max_new_tokens,
        stop_ids: match args.ignore_eos {
            true => Some(Vec::new()),
            false => stop_ids,
        },
        prefill_chunk: args.common.model.prefill_chunk(),
        max_context: Some(plan.max_context()?),
        sampling: args.sampling.config(plan.model.sampling()?)?,
        ..GenerationConfig::new()
    };
    config.check(&prompt, plan.model.config().vocab_size)?;
    let stop_ids = config.stop_ids.as_deref();
    let stop_ids = stop_ids.unwrap_or(&plan.model.config().stop_token_ids);
    let mask = args.grammar.mask(&plan, stop_ids)?;

    let work = Work::chunk(args.common.model.prefill_chunk().min(prompt.len()));
    let (held, new_tokens) = match lossless {
        // Drafts are verified densely, for which every page is there.
        Some(_) => (prompt.len() + args.max_new_tokens, 0),
        None => (prompt.len(), args.max_new_tokens),
    };
    let (mut session, device) = plan.load(held, new_tokens, work)?;
    let model = session.model().clone();
    session.set_lossless(lossless)?;
    let stream = session.generate_ids(&prompt, config)?;
    let stream = match mask {
        Some(mask) => stream.with_mask(mask)?,
        None => stream,
    };
    let stream = stream.on_prefill(prefill_progress(prompt.len()));
    let generated = match model.tokenizer() {
        Some(_) => new_text(stream.into_text()?, args)?,
        None => new_ids(stream, args)?,
    };

    let timings = generated.timings;
    let statistics = session.statistics();
    if !args.json {
        print_statistics(&timings, prompt.len(), generated.ids.len());
        if args.common.model.prefill.is_lazy() {
            let percent = 100.0 * statistics.share_computed;
            eprintln!("lazy prompt: {percent:.1} % of tokens times layers computed");
        }
        if let Some(drafts) = generated.drafts {
            print_drafts(&drafts);
        }
        return Ok(());
    }
    print_json(&Generation {
        text: generated.text,
        ids: generated.ids,
        prefill_tokens_per_s: timings.prefill_tokens_per_s(),
        decode_tokens_per_s: timings.decode_tokens_per_s(),
        prompt_tokens: prompt.len(),
        finish: match generated.finish {
            Some(Finish::Stop) => "stop",
            Some(Finish::Length) | None => "length",
        },
        device: value_name(device.name),
        dtype: model.dtype().name().to_owned(),
        weights: model.weights_name(),
        activation_sparsity: model
            .activation_sparsity()
            .map(ActivationSparsity::sparsity),
        policy: args.common.policy.kind().to_string(),
        prefill_policy: model.prefill().to_string(),
        share_computed: statistics.share_computed,
        kv_cache_bytes: statistics.cache_bytes,
        draft_acceptance: generated.drafts.and_then(|drafts| drafts.acceptance()),
        tokens_per_dense_pass: generated.drafts.and_then(|drafts| drafts.tokens_per_pass()),
    })
}

/// Runs prompts whose chunks take each kind of kernel: many rows, a batch of rows, a few, and one.
fn warm_up(plan: &Plan, args: &GenerateArgs) -> Result<(), Failure> {
    const NEW_TOKENS: usize = 4;
    let chunk = args.common.model.prefill_chunk();
    let longest = plan.max_context()?.saturating_sub(NEW_TOKENS).max(1);
    let lengths = [chunk.saturating_add(40), 20, 6, 1].map(|length| length.min(longest));
    let config = GenerationConfig {
        max_new_tokens: NEW_TOKENS,
        stop_ids: Some(Vec::new()),
        prefill_chunk: chunk,
        max_context: Some(longest + NEW_TOKENS),
        sampling: args.sampling.config(plan.model.sampling()?)?,
        ..GenerationConfig::new()
    };
    let work = Work::chunk(chunk.min(lengths[0]));
    let (mut session, device) = plan.load(lengths[0], NEW_TOKENS, work)?;
    for length in lengths {
        session.truncate(0)?;
        let prompt = vec![0; length];
        let stream = session.generate_ids(&prompt, config.clone())?;
        for id in stream.on_prefill(prefill_progress(length)) {
            id?;
        }
    }
    eprintln!("{} is warm", value_name(device.name));
    Ok(())
}

/// A progress bar that is gone when the prompt is done.
fn prefill_progress(total: usize) -> impl FnMut(usize) {
    let mut progress = Some(Progress::new("prefill", Unit::Tokens, total as u64));
    move |done| {
        if let Some(progress) = &mut progress {
            progress.set(done as u64);
        }
        if done == total {
            progress = None;
        }
    }
}

/// What came out.
struct Generated {
    ids: Vec<u32>,
    text: Option<String>,
    timings: Timings,
    finish: Option<Finish>,
    drafts: Option<DraftStatistics>,
}

/// New text, printed as it comes unless it is to be printed with everything else.
fn new_text(mut stream: TextStream, args: &GenerateArgs) -> Result<Generated, Failure> {
    let mut progress = decode_progress(args);
    let mut text = String::new();
    while let Some(piece) = stream.next().transpose()? {
        progress(stream.new_ids().len());
        if !args.json {
            print_part(&piece)?;
        }
        text += &piece;
    }
    if !args.json {
        print_line("")?;
    }
    Ok(Generated {
        ids: stream.new_ids().to_vec(),
        text: Some(text),
        timings: stream.timings(),
        finish: stream.finish(),
        drafts: stream.drafts(),
    })
}

/// New ids, for a model without a tokenizer.
fn new_ids(mut stream: IdStream, args: &GenerateArgs) -> Result<Generated, Failure> {
    let mut progress = decode_progress(args);
    while let Some(id) = stream.next().transpose()? {
        let n = stream.new_ids().len();
        progress(n);
        match n {
            _ if args.json => (),
            1 => print_part(&id.to_string())?,
            _ => print_part(&format!(" {id}"))?,
        }
    }
    if !args.json {
        print_line("")?;
    }
    Ok(Generated {
        ids: stream.new_ids().to_vec(),
        text: None,
        timings: stream.timings(),
        finish: stream.finish(),
        drafts: stream.drafts(),
    })
}

/// A progress bar of new tokens, where these are not printed as they come.
fn decode_progress(args: &GenerateArgs) -> impl FnMut(usize) {
    let (is_shown, total) = (args.json, args.max_new_tokens as u64);
    let mut progress = None;
    move |done| {
        if is_shown {
            progress
                .get_or_insert_with(|| Progress::new("decode", Unit::Tokens, total))
                .set(done as u64);
        }
    }
}

fn print_drafts(drafts: &DraftStatistics) {
    if let (Some(acceptance), Some(tokens)) = (drafts.acceptance(), drafts.tokens_per_pass()) {
        let percent = 100.0 * acceptance;
        eprintln!("drafts: {percent:.1} % accepted, {tokens:.2} tokens per dense pass");
    }
}

/// The prompt's tokens are not those of the timings: where none is to follow, none is prefilled.
fn print_statistics(timings: &Timings, prompt: usize, new_tokens: usize) {
    eprintln!(
        "prompt: {prompt} tokens, {}; new: {new_tokens} tokens, {}",
        per_second(timings.prefill_tokens_per_s()),
        per_second(timings.decode_tokens_per_s()),
    );
}
