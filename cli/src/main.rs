//! `quest`: long prompts on Llama-family checkpoints through Quest attention.
//!
//! Results go to stdout, everything else to stderr. The exit code is 0, 2 for input that cannot
//! be served, or 1 for a failure on the way.

mod bench;
mod calibrate;
mod chat;
mod check;
mod contenders;
mod convert;
mod demo;
mod device;
mod experiment;
mod failure;
mod folder;
mod generate;
mod grammar;
#[cfg(feature = "hub")]
mod hub;
mod ids;
mod info;
mod input;
#[cfg(feature = "gpu")]
mod kernels;
mod longbench;
mod memory;
mod model;
mod notes;
mod options;
mod output;
mod passkey;
mod perplexity;
mod policies;
mod prefill;
mod recall;
mod ruler;
#[cfg(feature = "serve")]
mod serve;
mod sparsity;
mod text;

use std::{panic::catch_unwind, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::failure::Failure;

/// Long prompts on Llama-family checkpoints through Quest attention.
#[derive(Parser)]
#[command(name = "quest", version, arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Finds a number in a text of 16K tokens, densely and through Quest.
    Demo(demo::DemoArgs),
    /// What a checkpoint is, and the bytes that its KV cache takes.
    Info(info::InfoArgs),
    /// Talks with a chat model.
    Chat(chat::ChatArgs),
    /// Answers many conversations at once, over HTTP as OpenAI does.
    #[cfg(feature = "serve")]
    Serve(Box<serve::ServeArgs>),
    /// Writes a checkpoint in another form: a folder of safetensors, or Burn's burnpack.
    Convert(convert::ConvertArgs),
    /// Finds which channels decoded tokens can skip, on a text.
    Calibrate(calibrate::CalibrateArgs),
    /// Continues a prompt.
    Generate(generate::GenerateArgs),
    /// Scores a text: negative log-likelihood of each token, and perplexity; with several policies,
    /// perplexity against position.
    Perplexity(perplexity::PerplexityArgs),
    /// Answers LongBench's six English tasks of the paper through page policies.
    Longbench(longbench::LongBenchArgs),
    /// Finds how few tokens each layer may read without loss of perplexity.
    Sparsity(sparsity::SparsityArgs),
    /// Asks policies for a number that is hidden in a long text.
    Passkey(passkey::PasskeyArgs),
    /// Answers RULER's tasks, which are made for any length, through page policies.
    Ruler(ruler::RulerArgs),
    /// Which of the tokens that matter a policy reads.
    Recall(recall::RecallArgs),
    /// Whether this device computes what it should: the kernels and a small model, in a minute.
    Check(check::CheckArgs),
    /// Times the kernels, whole decode steps, or prefill.
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    notes::print();
    let command = match parse() {
        Ok(cli) => cli.command,
        Err(error) => return failure::report_usage(&error),
    };
    // Burn panics where a device runs out of memory. The message is printed by then; what is left
    // to do is the exit code.
    let outcome = catch_unwind(|| run(command));
    #[cfg(feature = "gpu")]
    kernels::report();
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(_panic) => failure::INTERNAL,
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let matches = with_dashes_in_values(Cli::command()).try_get_matches()?;
    Cli::from_arg_matches(&matches)
}

/// Takes what begins with a dash for the value that it is meant to be, and not for an option that
/// is not there: any text, and a number below zero, which the option refuses by its name.
fn with_dashes_in_values(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let is_text = (arg.get_value_names()).is_some_and(|names| names == ["TEXT"]);
        match arg.get_action().takes_values() {
            true if is_text => arg.allow_hyphen_values(true),
            true => arg.allow_negative_numbers(true),
            false => arg,
        }
    });
    command.mut_subcommands(with_dashes_in_values)
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Chat(args) => chat::run(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Longbench(args) => longbench::run(&args),
        Command::Sparsity(args) => sparsity::run(&args),
        Command::Passkey(args) => passkey::run(&args),
        Command::Ruler(args) => ruler::run(&args),
        Command::Recall(args) => recall::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}
