//! Trains a small Llama that finds facts in 16K tokens and more, and writes it as a Hugging Face
//! folder.
//!
//! ```sh
//! cargo run --release -p quest-burn-examples --example train_passkey --features cuda -- --out run
//! ```
//!
//! The texts it learns from are made as it goes: facts with questions, passkeys, copies and prose,
//! short and dense first, then long and sparse. The run shows loss, accuracy and tokens per second,
//! makes checkpoints, and goes on from the newest one with `--resume`.
//!
//! On one H200 training takes less than five minutes, a quarter of them for the compilation of
//! kernels, and 69 GB of GPU memory. `BURN_DEVICE` names another device than the best one, and
//! `--tiny` makes it a matter of seconds on a CPU.

mod batch;
mod checkpoint;
mod corpus;
mod evaluation;
mod export;
mod model;
mod network;
mod options;
mod schedule;
mod trainer;

use std::{
    fs::{self, File},
    io::Write,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use burn::tensor::{DType, Device};
use clap::Parser;
use quest_burn_models::{config::ModelConfig, weights};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;

use corpus::{Recipe, Vocabulary};
use evaluation::{Passkey, Policy, Row, with_windows};
use options::Options;
use schedule::Schedule;
use trainer::{Report, Trainer};

const VOCABULARY: &str = "tokenizer.json";
const RUN: &str = "run.json";
const LOG: &str = "log.jsonl";
const EVALUATION: &str = "evaluation.json";
const MODEL: &str = "model";
/// Tokens of the vocabulary.
const VOCABULARY_SIZE: usize = 1024;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    if options.print_schedule {
        let schedule = serde_json::to_string_pretty(&options.schedule()?)?;
        println!("{schedule}");
        return Ok(());
    }
    if let Some(tokens) = options.print_text {
        println!("{}", text_with_facts(options, tokens)?);
        return Ok(());
    }
    fs::create_dir_all(&options.out)
        .with_context(|| format!("folder to write: {}", options.out.display()))?;
    let device = Device::default();
    let (vocabulary, schedule) = begin(options)?;
    let vocabulary = Arc::new(vocabulary);
    // Sizes that are multiples of 64 suit matrix units.
    let vocab_size = vocabulary.len().next_multiple_of(64);
    let config = match options.tiny {
        true => model::tiny_model(vocab_size),
        false => model::standard_model(vocab_size),
    };
    eprintln!(
        "{device:?}: {} parameters, {} tokens in the vocabulary",
        config.n_parameters(),
        vocabulary.len()
    );
    let mut trainer = Trainer::new(&config, schedule, vocabulary.clone(), options.seed, &device);
    if options.resume && checkpoint::resume(&options.out, &mut trainer)? {
        eprintln!("resumed at step {}", trainer.progress.step);
    }
    train(options, &mut trainer, &config, &vocabulary)?;
    if options.trials > 0 {
        evaluate(options, &trainer, &config, &vocabulary, &device)?;
    }
    Ok(())
}

/// A text of the last phase's kind that has facts and questions, not one of those trained on.
fn text_with_facts(options: &Options, tokens: usize) -> anyhow::Result<String> {
    let schedule = options.schedule()?;
    let last = schedule.phases.last().context("schedule: no phase")?;
    let recipe = Recipe {
        passkey: 0.0,
        facts: 1.0,
        copies: 0.0,
        filler: last.recipe.filler,
    };
    let vocabulary = Vocabulary::train(VOCABULARY_SIZE, options.seed)?;
    let mut rng = StdRng::seed_from_u64(!options.seed);
    let document = recipe.document(&vocabulary, tokens, &mut rng)?;
    // The first token begins a text, and is no part of it.
    Ok(vocabulary.decode(&document.ids[1..])?)
}

/// The vocabulary and the schedule of a run, which are in its folder from then on.
///
/// # Errors
///
/// When the folder holds another run than the one that is asked for.
fn begin(options: &Options) -> anyhow::Result<(Vocabulary, Schedule)> {
    let schedule = options.schedule()?;
    let run = json!({ "seed": options.seed, "tiny": options.tiny, "schedule": schedule });
    let (run_file, vocabulary_file) = (options.out.join(RUN), options.out.join(VOCABULARY));
    if !run_file.exists() {
        let size = if options.tiny { 600 } else { VOCABULARY_SIZE };
        let vocabulary = Vocabulary::train(size, options.seed)?;
        vocabulary.save(&vocabulary_file)?;
        fs::write(&run_file, serde_json::to_string_pretty(&run)?)?;
        return Ok((vocabulary, schedule));
    }
    ensure!(
        options.resume,
        "{}: expected a folder without a run, or --resume",
        options.out.display()
    );
    let found = fs::read_to_string(&run_file)?;
    ensure!(
        serde_json::from_str::<serde_json::Value>(&found)? == run,
        "{}: expected the seed, the size of the model and the schedule of the run that is resumed",
        run_file.display()
    );
    Ok((Vocabulary::load(&vocabulary_file)?, schedule))
}

/// Trains until the schedule, the steps or the time that was given are at their end.
fn train(
    options: &Options,
    trainer: &mut Trainer,
    config: &ModelConfig,
    vocabulary: &Vocabulary,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let limit = options.minutes.map(|m| Duration::from_secs_f64(60.0 * m));
    let mut log = File::options()
        .create(true)
        .append(true)
        .open(options.out.join(LOG))?;
    let mut shown = Instant::now();
    let mut saved = Instant::now();
    loop {
        let is_out_of_time = limit.is_some_and(|limit| start.elapsed() >= limit);
        let is_out_of_steps = options.steps.is_some_and(|n| trainer.progress.step >= n);
        if is_out_of_time || is_out_of_steps {
            break;
        }
        let phase = trainer.progress.phase;
        let Some(report) = trainer.report()? else {
            break;
        };
        writeln!(log, "{}", serde_json::to_string(&report)?)?;
        let is_phase_over = trainer.progress.phase != phase;
        if is_phase_over || shown.elapsed() >= Duration::from_secs(2) {
            shown = Instant::now();
            show(&report);
        }
        if saved.elapsed() >= Duration::from_secs(options.checkpoint_every) {
            save(options, trainer, config, vocabulary)?;
            saved = Instant::now();
        }
    }
    save(options, trainer, config, vocabulary)
}

fn show(report: &Report) {
    let Report { progress, .. } = report;
    eprintln!(
        "{:>7.1} s  step {:>6}  {:<10} loss {:.4}  answers: loss {:.4} accuracy {:.4}  \
         {:>7.0} tokens/s  rate {:.1e}",
        progress.seconds,
        progress.step,
        report.name,
        report.loss,
        report.answer_loss,
        report.accuracy,
        report.tokens_per_s,
        report.learning_rate,
    );
}

/// A checkpoint, and the model as it is now.
fn save(
    options: &Options,
    trainer: &Trainer,
    config: &ModelConfig,
    vocabulary: &Vocabulary,
) -> anyhow::Result<()> {
    let path = checkpoint::save(&options.out, trainer)?;
    let folder = options.out.join(MODEL);
    export::write(&folder, &trainer.snapshot(), config, vocabulary)?;
    eprintln!("saved {}", path.display());
    Ok(())
}

/// The passkey task with the exported model, and with the model's layers held to windows.
fn evaluate(
    options: &Options,
    trainer: &Trainer,
    config: &ModelConfig,
    vocabulary: &Vocabulary,
    device: &Device,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let dtype = options.evaluation_dtype.into();
    ensure!(device.supports_dtype(dtype), "{device:?} has no {dtype:?}");
    let folder = options.out.join(MODEL);
    let read = ModelConfig::from_dir(&folder)?;
    let exported = weights::load(&folder, &read, device, dtype, &mut |_| ())?;
    let passkey = Passkey {
        tokens: options.evaluation_tokens,
        trials: options.trials,
        batch: options.evaluation_batch,
        fed: options.fed.min(options.evaluation_tokens - 1),
        seed: options.seed,
    };
    let budgets = match options.budgets.is_empty() {
        true => vec![passkey.tokens / 16, passkey.tokens / 64],
        false => options.budgets.clone(),
    };
    let mut policies = vec![Policy::dense()];
    for budget in budgets {
        policies.push(Policy::quest(budget)?);
    }
    let mut rows = passkey.run(
        &exported,
        &read,
        vocabulary,
        &policies,
        dtype,
        &mut |done| eprint!("\rpasskey: {done} of {} ", options.trials),
    )?;
    eprintln!();
    if options.window_trials > 0 {
        let model = trainer.snapshot();
        let passkey = Passkey {
            trials: options.window_trials,
            ..passkey
        };
        let limited = |layers: std::ops::Range<usize>| {
            let window = |layer| layers.contains(&layer).then_some(256);
            (0..config.n_layers).map(window).collect::<Vec<_>>()
        };
        for (name, windows) in [
            ("no window", limited(0..0)),
            ("window of 256 in layers 0 and 1", limited(0..2)),
            (
                "window of 256 in the other layers",
                limited(2..config.n_layers),
            ),
        ] {
            rows.push(with_windows(&passkey, &model, vocabulary, name, &windows)?);
        }
    }
    for row in &rows {
        show_row(row);
    }
    let text = json!({
        "rows": rows,
        "passkey": passkey,
        "dtype": format!("{dtype:?}"),
        "windows_dtype": format!("{:?}", DType::F32),
        "device": format!("{device:?}"),
        "progress": trainer.progress,
        "seconds": start.elapsed().as_secs_f64(),
    });
    fs::write(
        options.out.join(EVALUATION),
        serde_json::to_string_pretty(&text)?,
    )?;
    Ok(())
}

fn show_row(row: &Row) {
    let budget = row.budget.map_or(String::new(), |n| format!(" {n}"));
    eprintln!(
        "{}{budget}: {} of {} at {} tokens",
        row.policy, row.correct, row.trials, row.length
    );
    for miss in row.misses.iter().take(4) {
        eprintln!(
            "  depth {:.2}: {}, answered {:?}",
            miss.depth, miss.key, miss.answer
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_text_has_facts_and_depends_on_the_seed_alone() {
        let text = |seed: &str| {
            let options = Options::parse_from(["train_passkey", "--seed", seed]);
            text_with_facts(&options, 700).unwrap()
        };
        let (first, other) = (text("1"), text("2"));
        assert!(first.contains(" is "), "{first}");
        assert_eq!(first, text("1"));
        assert_ne!(first, other);
    }
}
