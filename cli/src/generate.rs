//! `quest generate`

use std::path::PathBuf;

use clap::Args;
use quest_burn_experiments::tokens;
use quest_burn_models::{
    generation::{Finish, GenerationConfig, Generator, Timings},
    tokenizer::{DecodeStream, Tokenizer},
};
use serde::Serialize;

use crate::{
    failure::Failure,
    ids,
    memory::Work,
    model::Plan,
    options::{CommonOptions, SamplingOptions, dtype_name, value_name},
    output::{Progress, Unit, per_second, print_json, print_line, print_part},
};

#[derive(Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    prompt: PromptArgs,
    /// New tokens at most
    #[arg(
        long,
        value_name = "N",
        value_parser = tokens::parse_count,
        default_value_t = GenerationConfig::new().max_new_tokens
    )]
    max_new_tokens: usize,
    /// Goes on after the checkpoint's stop tokens
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Prints one JSON object at the end instead of text as it comes
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct PromptArgs {
    /// The prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// A file with the prompt; `-` for stdin
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// A JSON file with the prompt's token ids: an array, or an object with a field `ids`; `-` for
    /// stdin
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
}

impl PromptArgs {
    fn read(&self, tokenizer: Option<&Tokenizer>) -> anyhow::Result<Vec<u32>> {
        match (&self.prompt, &self.prompt_file, &self.ids) {
            (Some(text), _, _) => ids::from_text(text, tokenizer),
            (_, Some(path), _) => ids::from_text_file(path, tokenizer),
            (_, _, Some(path)) => ids::from_json_file(path),
            (None, None, None) => unreachable!("one of the group is required"),
        }
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
    policy: String,
    kv_cache_bytes: u64,
}

pub fn run(args: &GenerateArgs) -> Result<(), Failure> {
    let plan = Plan::new(&args.common)?;
    let tokenizer = ids::tokenizer(plan.model.folder.path())?;
    let prompt = args.prompt.read(tokenizer.as_ref())?;
    let config = GenerationConfig {
        max_new_tokens: args.max_new_tokens,
        stop_ids: match args.ignore_eos {
            true => Vec::new(),
            false => plan.model.config.stop_token_ids.clone(),
        },
        prefill_chunk: args.common.model.prefill_chunk,
        max_context: Some(plan.max_context()?),
        sampling: args.sampling.config(),
        capture: true,
    };
    config.check(&prompt, plan.model.config.vocab_size)?;

    let work = Work::chunk(args.common.model.prefill_chunk.min(prompt.len()));
    let mut loaded = plan.load(prompt.len() + args.max_new_tokens, work)?;
    let kv_cache_bytes = loaded.cache.bytes();
    let generator = Generator::new(
        &loaded.model,
        &mut loaded.cache,
        loaded.policy.as_ref(),
        &prompt,
        config,
    )?;
    let mut generator = generator.on_prefill(prefill_progress(prompt.len()));
    let ids = if args.json {
        collect(&mut generator, args.max_new_tokens)?
    } else {
        stream(&mut generator, tokenizer.as_ref())?
    };

    let timings = generator.timings();
    if !args.json {
        print_statistics(&timings, prompt.len(), ids.len());
        return Ok(());
    }
    let text = tokenizer.map(|tokenizer| tokenizer.decode(&ids));
    print_json(&Generation {
        text: text.transpose().map_err(Failure::internal)?,
        ids,
        prefill_tokens_per_s: timings.prefill_tokens_per_s(),
        decode_tokens_per_s: timings.decode_tokens_per_s(),
        prompt_tokens: prompt.len(),
        finish: match generator.finish() {
            Some(Finish::Stop) => "stop",
            Some(Finish::Length) | None => "length",
        },
        device: value_name(loaded.device.name),
        dtype: dtype_name(loaded.dtype),
        weights: plan.model.config.weights_name(loaded.weights),
        policy: args.common.policy.kind().name().to_owned(),
        kv_cache_bytes,
    })
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

/// All new ids at once.
fn collect(generator: &mut Generator, total: usize) -> Result<Vec<u32>, Failure> {
    let mut ids = Vec::new();
    let mut progress = None;
    for id in generator {
        ids.push(id?);
        progress
            .get_or_insert_with(|| Progress::new("decode", Unit::Tokens, total as u64))
            .set(ids.len() as u64);
    }
    Ok(ids)
}

/// New ids, printed as they come: as text where there is a tokenizer.
fn stream(generator: &mut Generator, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>, Failure> {
    let mut decoder = tokenizer.map(Tokenizer::decode_stream);
    let mut ids = Vec::new();
    for id in generator {
        let id = id?;
        match &mut decoder {
            Some(decoder) => print_part(&decoder.push(id).map_err(Failure::internal)?)?,
            None if ids.is_empty() => print_part(&id.to_string())?,
            None => print_part(&format!(" {id}"))?,
        }
        ids.push(id);
    }
    let rest = decoder.map(DecodeStream::finish).transpose();
    print_line(&rest.map_err(Failure::internal)?.unwrap_or_default())?;
    Ok(ids)
}

/// The prompt's tokens are not those of the timings: where none is to follow, none is prefilled.
fn print_statistics(timings: &Timings, prompt: usize, new_tokens: usize) {
    eprintln!(
        "prompt: {prompt} tokens, {}; new: {new_tokens} tokens, {}",
        per_second(timings.prefill_tokens_per_s()),
        per_second(timings.decode_tokens_per_s()),
    );
}
