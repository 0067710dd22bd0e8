#[cfg(feature = "plot")]
use std::path::PathBuf;

use clap::{Args, Subcommand};
#[cfg(feature = "plot")]
use quest_burn_report::file::check_writable;

#[cfg(feature = "serve")]
use crate::serve::{ServeOptions, StartedServer};
use crate::{
    BenchError, Output, Rows, Target,
    attention::{self, AttentionOptions},
    record::Kind,
};
#[cfg(feature = "models")]
use crate::{
    decode::{self, DecodeOptions},
    engine::{self, EngineOptions},
    lossless::{self, LosslessOptions},
    prefill::{self, PrefillOptions},
};

/// A benchmark, and where its results go.
#[derive(Args, Debug)]
pub struct BenchOptions {
    #[command(subcommand)]
    command: Command,
    /// Prints a JSON object per result
    #[arg(long, global = true)]
    json: bool,
    #[cfg(feature = "plot")]
    /// Draws the times over the contexts as SVG
    #[arg(long, global = true, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One layer's decode attention: each operation, and all of it
    Attention(AttentionOptions),
    /// A decode step of a whole model, dense and with Quest
    #[cfg(feature = "models")]
    Decode(DecodeOptions),
    /// Many conversations at once: what each sees of its tokens, dense and with Quest
    #[cfg(feature = "models")]
    Engine(EngineOptions),
    /// Answers of a whole model: dense, with Quest, and lossless, where Quest drafts
    #[cfg(feature = "models")]
    Lossless(LosslessOptions),
    /// The prompt of a whole model
    #[cfg(feature = "models")]
    Prefill(PrefillOptions),
    /// Load on a server with OpenAI's interface: requests per second, time to tokens
    #[cfg(feature = "serve")]
    Serve(ServeOptions),
}

impl BenchOptions {
    /// The load on a server, where that is what is measured. It needs no device.
    #[cfg(feature = "serve")]
    pub fn serve(&self) -> Option<&ServeOptions> {
        match &self.command {
            Command::Serve(options) => Some(options),
            _ => None,
        }
    }

    /// Measures a server that was started, or that at the options' address, and prints each result as it comes.
    ///
    /// # Errors
    ///
    /// When it does not answer, or an option makes no sense.
    #[cfg(feature = "serve")]
    pub fn run_serve(
        &self,
        options: &ServeOptions,
        started: Option<&StartedServer>,
    ) -> Result<(), BenchError> {
        #[cfg(feature = "plot")]
        if let Some(path) = &self.plot {
            return Err(BenchError::Option {
                option: "--plot",
                expected: "none for a server".into(),
                found: path.display().to_string(),
            });
        }
        options.run(started, self.json)
    }

    /// Measures, and prints each result as it comes.
    ///
    /// # Errors
    ///
    /// When an option cannot be served, the device fails, a timed result is wrong or a file cannot
    /// be written.
    pub fn run(&self, target: &Target) -> Result<(), BenchError> {
        #[cfg(feature = "serve")]
        if let Command::Serve(options) = &self.command {
            return self.run_serve(options, None);
        }
        let output = if self.json {
            Output::Json
        } else {
            Output::Table
        };
        #[cfg(feature = "plot")]
        if let Some(path) = &self.plot {
            check_writable(path).map_err(|error| BenchError::Option {
                option: "--plot",
                expected: "a file that can be written".into(),
                found: format!("{}: {error}", path.display()),
            })?;
        }
        let kind = match self.command {
            Command::Attention(_) => Kind::Attention,
            #[cfg(feature = "models")]
            Command::Decode(_) | Command::Engine(_) | Command::Lossless(_) => Kind::Decode,
            #[cfg(feature = "models")]
            Command::Prefill(_) => Kind::Prefill,
            #[cfg(feature = "serve")]
            Command::Serve(_) => unreachable!("answered above"),
        };
        let mut rows = Rows::new(target, output, kind);
        let measured = match &self.command {
            Command::Attention(options) => attention::run(options, target, &mut rows),
            #[cfg(feature = "models")]
            Command::Decode(options) => decode::run(options, target, &mut rows),
            #[cfg(feature = "models")]
            Command::Engine(options) => engine::run(options, target, &mut rows),
            #[cfg(feature = "models")]
            Command::Lossless(options) => lossless::run(options, target, &mut rows),
            #[cfg(feature = "models")]
            Command::Prefill(options) => prefill::run(options, target, &mut rows),
            #[cfg(feature = "serve")]
            Command::Serve(_) => unreachable!("answered above"),
        };
        #[cfg(feature = "plot")]
        if let Some(path) = &self.plot
            && matches!(measured, Ok(()) | Err(BenchError::Failed { .. }))
        {
            crate::plot::time_over_context(rows.records(), path)?;
        }
        measured
    }
}
