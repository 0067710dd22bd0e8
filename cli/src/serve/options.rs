//! Options of `quest serve`.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use quest_burn_benches::API_KEY_VARIABLE;
use quest_burn_engine::EngineConfig;
use quest_burn_report::count;
use quest_burn_serve::{Limits, ServerConfig};

/// Longer answers than of ten years are not waited for.
const MAX_SECONDS: u64 = 10 * 365 * 24 * 3600;

/// Where the server is, and who may ask it.
#[derive(Args)]
pub(super) struct AddressOptions {
    /// Address to listen at; 0.0.0.0 or :: for all of this machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen at; 0 for one that is free
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub port: u16,
    /// A key that requests have to name; may be given several times [default: the environment's
    /// QUEST_API_KEY, else everybody may ask]
    #[arg(long = "api-key", value_name = "KEY")]
    api_keys: Vec<String>,
    /// Another name that requests may ask for the model by; may be given several times
    #[arg(long = "alias", value_name = "NAME")]
    pub aliases: Vec<String>,
    /// Ends at once when stdin does: with the program that started this one and holds the other end
    #[arg(long)]
    pub until_stdin_closes: bool,
}

/// How many are served at once.
#[derive(Args)]
pub(super) struct EngineOptions {
    /// Tokens of all conversations that the KV cache holds [default: four contexts, as far as memory
    /// goes]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    pub cache_tokens: Option<usize>,
    /// Sequences that run at once
    #[arg(long, value_name = "N", value_parser = count::sequences, default_value_t = EngineConfig::new(1).max_sequences)]
    max_sequences: usize,
    /// Requests that wait at most; further ones are refused
    #[arg(long, value_name = "N", value_parser = count::number, default_value_t = EngineConfig::new(1).queue)]
    queue: usize,
    /// Tokens of a step: it bounds how long a prompt delays the answers of others
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value_t = EngineConfig::new(1).step_tokens)]
    step_tokens: usize,
    /// Computes every prompt from its beginning, also where its first pages are in the cache
    #[arg(long)]
    no_prefix_cache: bool,
    /// Launches decode steps kernel by kernel, also where a GPU could replay recorded ones
    #[arg(long)]
    no_recording: bool,
}

/// What requests may take.
#[derive(Args)]
pub(super) struct LimitOptions {
    /// Bytes of a request
    #[arg(long, value_name = "BYTES", value_parser = count::bytes, default_value = "16MB")]
    max_body: u64,
    /// Tokens of a prompt [default: what the context holds]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    max_prompt: Option<usize>,
    /// Tokens of an answer [default: what the context holds]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    max_answer: Option<usize>,
    /// Answers of one request, as `n` asks for
    #[arg(long, value_name = "N", value_parser = count::number, default_value_t = Limits::default().answers)]
    max_n: usize,
    /// Requests that are worked on at once, waiting ones included
    #[arg(long, value_name = "N", value_parser = count::number, default_value_t = Limits::default().requests)]
    max_requests: usize,
    /// Seconds that an answer may take [default: as many as it needs]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    timeout: Option<u64>,
}

impl AddressOptions {
    /// Keys, one of which a request has to name.
    pub(super) fn api_keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = self.api_keys.clone();
        if keys.is_empty() {
            keys.extend(std::env::var(API_KEY_VARIABLE).ok());
        }
        if keys.iter().any(|key| key.trim().is_empty()) {
            bail!("--api-key: expected a key, found an empty one");
        }
        Ok(keys)
    }
}

impl EngineOptions {
    /// Refuses sizes that make no sense together.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        // Each is at least 1, so what is left is how they fit together.
        let checked = self.config(1).validate();
        checked.context("--step-tokens, --max-sequences")
    }

    /// The engine's sizes over a cache of so many tokens.
    pub(super) fn config(&self, pool_tokens: usize) -> EngineConfig {
        EngineConfig::new(pool_tokens)
            .with_max_sequences(self.max_sequences)
            .with_queue(self.queue)
            .with_step_tokens(self.step_tokens)
            .with_prefix_cache(!self.no_prefix_cache)
            .with_recording(!self.no_recording)
    }
}

impl LimitOptions {
    /// As the server takes it.
    pub(super) fn config(&self, api_keys: Vec<String>) -> ServerConfig {
        ServerConfig {
            limits: Limits {
                body_bytes: usize::try_from(self.max_body).unwrap_or(usize::MAX),
                prompt_tokens: self.max_prompt.unwrap_or(usize::MAX),
                answer_tokens: self.max_answer.unwrap_or(usize::MAX),
                answers: self.max_n,
                requests: self.max_requests,
                time: self.timeout.map(Duration::from_secs),
                ..Limits::default()
            },
            api_keys,
        }
    }
}
