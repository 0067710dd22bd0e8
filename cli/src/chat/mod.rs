//! `quest chat`

mod command;
mod dialogue;
mod interrupt;
mod lines;
pub(crate) mod prompt;

use std::{fs, path::Path};

use anyhow::Context;
use clap::Args;
use indicatif::BinaryBytes;
use quest_burn_models::generation::GenerationConfig;
use quest_burn_report::count;
use serde::Serialize;

use self::{
    command::{Command, HELP, Turn},
    dialogue::{Answer, Dialogue, End, Saved},
    interrupt::Interrupt,
    lines::{Line, Lines},
    prompt::{Prompter, TemplateOptions},
};
use crate::{
    failure::Failure,
    ids, input,
    memory::Work,
    model::Plan,
    options::{ChannelOptions, CommonOptions, LosslessOptions, SamplingOptions},
    output::{per_second, print_json, print_line, print_part},
};

/// Tokens that a conversation is expected to have where no context is given. Its cache grows beyond.
const EXPECTED_TOKENS: usize = 4096;

#[derive(Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    common: CommonOptions,
    #[command(flatten)]
    template: TemplateOptions,
    /// Tokens of an answer at most. The cache has room for them before an answer begins
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value = "1024")]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    lossless: LosslessOptions,
    #[command(flatten)]
    channels: ChannelOptions,
    /// Prints one JSON object for each answer instead of text as it comes
    #[arg(long)]
    json: bool,
}

/// What `--json` prints for an answer.
#[derive(Serialize)]
struct AnswerLine<'a> {
    text: &'a str,
    finish: End,
    prompt_tokens: usize,
    reused_tokens: usize,
    new_tokens: usize,
    prefill_tokens_per_s: Option<f64>,
    decode_tokens_per_s: Option<f64>,
    share_read: Option<f64>,
}

pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let mut plan = Plan::new(&args.common)?.with_channels(&args.channels)?;
    let context = plan.max_context()?;
    let prompter = Prompter::new(&plan.model, &args.template)?;
    let sampling = args.sampling.config(plan.model.sampling()?)?;
    sampling.validate().map_err(anyhow::Error::new)?;
    let lossless = args.lossless.config(&args.common.model.prefill)?;
    let chunk = args.common.model.prefill_chunk();
    let config = GenerationConfig {
        max_new_tokens: args.max_new_tokens,
        stop_ids: Some(prompter.stop_ids().to_vec()),
        prefill_chunk: chunk,
        max_context: Some(context),
        sampling,
        ..GenerationConfig::new()
    };
    plan.model.model = plan.model.model.context(context);
    let expected = args.common.context.unwrap_or(context.min(EXPECTED_TOKENS));
    let loaded = plan.model.load(expected, Work::chunk(chunk))?;
    loaded.report(expected);
    let mut session = loaded.model.session()?;
    session.set_lossless(lossless)?;
    let dialogue = Dialogue::new(session, &prompter, config, args.common.policy.config());
    Chat {
        dialogue,
        interrupt: Interrupt::new()?,
        is_json: args.json,
        has_failed: false,
    }
    .run()
}

/// A dialogue at a terminal or with a script.
struct Chat<'a> {
    dialogue: Dialogue<'a>,
    interrupt: Interrupt,
    is_json: bool,
    /// Whether a line of a script was refused.
    has_failed: bool,
}

impl Chat<'_> {
    fn run(mut self) -> Result<(), Failure> {
        let mut lines = Lines::open()?;
        if lines.is_terminal() {
            eprintln!(
                "/help lists the commands; Ctrl-C stops an answer, pressed twice the program"
            );
        }
        let mut was_interrupted = false;
        loop {
            let text = match lines.read()? {
                Line::Text(text) => text,
                Line::Interrupted if was_interrupted => break,
                Line::Interrupted => {
                    was_interrupted = true;
                    eprintln!("Ctrl-C again ends the program");
                    continue;
                }
                Line::End => break,
            };
            was_interrupted = false;
            self.interrupt.take();
            match self.turn(&text) {
                Ok(true) => (),
                Ok(false) => break,
                // The conversation is as before.
                Err(Failure::BadInput(error)) => {
                    self.has_failed = true;
                    Failure::BadInput(error).report();
                }
                Err(failure) => return Err(failure),
            }
        }
        match self.has_failed && !lines.is_terminal() {
            true => Err(Failure::BadInput(anyhow::anyhow!(
                "chat: some lines were refused, see above"
            ))),
            false => Ok(()),
        }
    }

    /// Does what a line says; whether there is to be another one.
    fn turn(&mut self, line: &str) -> Result<bool, Failure> {
        match Turn::parse(line)? {
            Turn::Nothing => (),
            Turn::Question(text) => {
                self.dialogue.ask(&text);
                self.answer()?;
            }
            Turn::Command(Command::Quit) => return Ok(false),
            Turn::Command(Command::Retry) => {
                self.dialogue.forget_answer()?;
                self.answer()?;
            }
            Turn::Command(command) => self.command(command)?,
        }
        Ok(true)
    }

    fn answer(&mut self) -> Result<(), Failure> {
        let is_json = self.is_json;
        let mut show = |piece: &str| match is_json {
            true => Ok(()),
            false => print_part(piece),
        };
        let answer = self.dialogue.answer(&self.interrupt, &mut show)?;
        if is_json {
            print_json(&AnswerLine {
                text: &answer.text,
                finish: answer.end,
                prompt_tokens: answer.prompt_tokens,
                reused_tokens: answer.reused_tokens,
                new_tokens: answer.new_tokens,
                prefill_tokens_per_s: answer.timings.prefill_tokens_per_s(),
                decode_tokens_per_s: answer.timings.decode_tokens_per_s(),
                share_read: self.dialogue.session().statistics().share_read,
            })?;
        } else {
            print_line("")?;
        }
        report(&answer);
        Ok(())
    }

    fn command(&mut self, command: Command) -> anyhow::Result<()> {
        let dialogue = &mut self.dialogue;
        match command {
            Command::Help => eprintln!("{HELP}"),
            Command::Reset => dialogue.reset(),
            Command::Undo => dialogue.undo()?,
            Command::Save(path) => {
                let json = serde_json::to_string_pretty(&dialogue.save())?;
                fs::write(&path, json + "\n").with_context(|| path.display().to_string())?;
                eprintln!("{}: {} messages", path.display(), dialogue.n_messages());
            }
            Command::Load(path) => {
                dialogue.load(saved(&path)?);
                eprintln!("{}: {} messages", path.display(), dialogue.n_messages());
            }
            Command::File(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                let text = ids::text_file(&path)?;
                let tokens = dialogue.add_document(&name.to_string_lossy(), &text)?;
                eprintln!(
                    "{}: {tokens} tokens, before the next question",
                    path.display()
                );
            }
            Command::Policy(kind) => {
                let mut policy = dialogue.policy().clone();
                if let Some(kind) = kind {
                    policy.kind = kind;
                    dialogue.set_policy(policy)?;
                }
                eprintln!("policy: {}", dialogue.policy().kind);
            }
            Command::Budget(budget) => {
                let mut policy = dialogue.policy().clone();
                if let Some(budget) = budget {
                    policy.quest.token_budget = budget;
                    dialogue.set_policy(policy)?;
                }
                eprintln!("budget: {} tokens", dialogue.policy().quest.token_budget);
            }
            Command::Stats => self.print_statistics(),
            Command::Retry | Command::Quit => unreachable!("they are no matter of the dialogue"),
        }
        Ok(())
    }

    fn print_statistics(&self) {
        let session = self.dialogue.session();
        let statistics = session.statistics();
        let timings = statistics.timings;
        let quest = &self.dialogue.policy().quest;
        eprintln!(
            "tokens        {} of at most {}",
            statistics.tokens,
            session.capacity()
        );
        eprintln!(
            "pages         {} of {} tokens",
            statistics.pages,
            session.cache().page_size()
        );
        eprintln!(
            "policy        {}, budget {} tokens",
            self.dialogue.policy().kind,
            quest.token_budget
        );
        match statistics.share_read {
            Some(share) => eprintln!("read          {:.1} % of the cache", 100.0 * share),
            None => eprintln!("read          unknown of this policy"),
        }
        eprintln!(
            "prefill       {}",
            per_second(timings.prefill_tokens_per_s())
        );
        eprintln!(
            "decode        {}",
            per_second(timings.decode_tokens_per_s())
        );
        eprintln!("KV cache      {}", BinaryBytes(statistics.cache_bytes));
        if let Ok(bytes) = session.model().weight_bytes() {
            eprintln!("weights       {}", BinaryBytes(bytes));
        }
    }
}

fn saved(path: &Path) -> anyhow::Result<Saved> {
    let json = input::read(path)?;
    serde_json::from_slice(&json).with_context(|| {
        format!(
            "{}: expected a conversation that /save wrote",
            path.display()
        )
    })
}

fn report(answer: &Answer) {
    let interrupted = match answer.end {
        End::Interrupted => "; interrupted",
        End::Stop | End::Length => "",
    };
    eprintln!(
        "prompt: {} tokens, {} of them kept, {}; new: {} tokens, {}{interrupted}",
        answer.prompt_tokens,
        answer.reused_tokens,
        per_second(answer.timings.prefill_tokens_per_s()),
        answer.new_tokens,
        per_second(answer.timings.decode_tokens_per_s()),
    );
}
