//! Load on a server with OpenAI's interface, over HTTP: requests per second, time to the first token and
//! between deliveries of tokens, for growing numbers of clients. Any such server is measured by the same requests.

mod arrivals;
mod client;
mod load;
mod policy;
mod prompts;
mod times;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use clap::Args;
use quest_burn_report::{count, table::Table};
use serde_json::{Value, json};

pub use self::policy::StartedServer;
use self::{
    client::{Answer, Asked, Client},
    load::{HEADING, Load},
    policy::AskedPolicy,
    prompts::Prompts,
    times::Times,
};
use crate::BenchError;

/// The variable with a key of `quest serve` and of who asks it, so that it is in no list of processes.
pub const API_KEY_VARIABLE: &str = "QUEST_API_KEY";

/// Options of `bench serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeOptions {
    /// Address of a server that runs [default: one that is started, with --model and what is behind --]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A key of the server [default: the environment's QUEST_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Clients at once, each of which asks when it has its answer
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::sequences, default_value = "1,4,16")]
    clients: Vec<usize>,
    /// Requests of each measurement
    #[arg(long, value_name = "N", value_parser = count::number, default_value = "32")]
    requests: usize,
    /// Tokens of a prompt, nearly
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = count::tokens, default_value = "256")]
    prompts: Vec<usize>,
    /// Tokens of an answer
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value = "64")]
    new_tokens: usize,
    /// What answers attend to; `default` for servers that do not know Quest
    #[arg(
        long,
        value_enum,
        value_name = "POLICY,..",
        value_delimiter = ',',
        default_value = "default"
    )]
    policies: Vec<AskedPolicy>,
    /// Tokens that Quest attends to [default: as the server has it]
    #[arg(long, value_name = "N", value_parser = count::tokens)]
    budget: Option<usize>,
    /// A text that prompts are cut out of [default: a few words of English, again and again]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// All prompts begin with the same text
    #[arg(long)]
    shared: bool,
    /// The model of the server that is started
    #[arg(long, value_name = "MODEL", conflicts_with = "url")]
    model: Option<String>,
    /// Options of the server that is started
    #[arg(last = true, value_name = "OPTION", conflicts_with = "url")]
    server: Vec<String>,
}

impl ServeOptions {
    /// Arguments of the server that is to be started; none where one runs.
    pub fn server(&self) -> Option<Vec<String>> {
        if self.url.is_some() {
            return None;
        }
        let model = self.model.iter();
        let model = model.flat_map(|model| ["--model".to_owned(), model.clone()]);
        Some(model.chain(self.server.iter().cloned()).collect())
    }

    /// The key that requests name, if any: the option's, or the environment's.
    ///
    /// # Errors
    ///
    /// When it is empty.
    pub fn api_key(&self) -> Result<Option<String>, BenchError> {
        let of_environment = || std::env::var(API_KEY_VARIABLE).ok();
        match self.api_key.clone().or_else(of_environment) {
            Some(key) if key.trim().is_empty() => Err(BenchError::Option {
                option: "--api-key",
                expected: "a key".into(),
                found: "an empty one".into(),
            }),
            key => Ok(key),
        }
    }

    /// Measures a server, and prints each result as it comes.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or an option makes no sense.
    pub fn run(&self, started: Option<&StartedServer>, is_json: bool) -> Result<(), BenchError> {
        let url = started.map(|server| server.url.as_str());
        let Some(url) = url.or(self.url.as_deref()) else {
            return Err(BenchError::Option {
                option: "--url",
                expected: "the address of a server".into(),
                found: "none".into(),
            });
        };
        let key = self.api_key()?;
        let client = Client::new(url, key.as_deref());
        let model = client.model()?;
        let prompts = Prompts::new(self.text.as_deref(), self.shared, &client)?;
        let mut table = Table::new(HEADING);
        // No two measurements ask the same, so that no cache has what was asked before.
        let mut asked = 1;
        for &tokens in &self.prompts {
            for &policy in &self.policies {
                for &clients in &self.clients {
                    let answered = policy.answered_by(self.budget, started);
                    let of = (tokens, policy, clients);
                    let load = self.measure(&client, &model, &prompts, of, answered, asked)?;
                    asked += self.requests;
                    match is_json {
                        true => print(&serde_json::to_string(&load).expect("keys are text"))?,
                        false => table.push(load.cells()),
                    }
                }
            }
        }
        match is_json {
            true => Ok(()),
            false => print(table.to_string().trim_end()),
        }
    }

    fn measure(
        &self,
        client: &Client,
        model: &str,
        prompts: &Prompts,
        (tokens, policy, clients): (usize, AskedPolicy, usize),
        (answered_by, budget): (String, Option<usize>),
        first: usize,
    ) -> Result<Load, BenchError> {
        let next = AtomicUsize::new(0);
        let answers = Mutex::new(Vec::new());
        let refused = AtomicUsize::new(0);
        let ask = || {
            let client = client.clone();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.requests {
                    return Ok::<_, BenchError>(());
                }
                let body = self.body(model, prompts.get(first + number, tokens), policy);
                match client.ask(&body)? {
                    Asked::Refused => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Asked::Answered(answer) => {
                        answers
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(answer);
                    }
                }
            }
        };
        let begun = Instant::now();
        thread::scope(|scope| {
            let asking = (0..clients).map(|_| scope.spawn(ask)).collect::<Vec<_>>();
            let mut asked = asking.into_iter().map(|asking| asking.join());
            asked.try_for_each(|asked| {
                asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        let taken = begun.elapsed().as_secs_f64();
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(first_token_ms) = Times::of(answers.iter().map(|answer| answer.first)) else {
            return Err(BenchError::Server(format!(
                "{}: expected answers, found all refused",
                client.url()
            )));
        };
        let sum = |of: fn(&Answer) -> u64| answers.iter().map(of).sum::<u64>();
        let new_tokens = sum(|answer| answer.new_tokens);
        let n = answers.len();
        let gaps = || answers.iter().flat_map(|answer| &answer.gaps).copied();
        // Each answer has one more.
        let deliveries = gaps().count() + n;
        let parts = answers.iter().map(|answer| answer.parts).sum::<usize>();
        Ok(Load {
            kind: "serve",
            url: client.url().to_owned(),
            model: model.to_owned(),
            policy: answered_by,
            budget,
            clients,
            requests: n,
            refused: refused.into_inner(),
            prompt_tokens: sum(|answer| answer.prompt_tokens) / n as u64,
            new_tokens: new_tokens / n as u64,
            requests_per_s: n as f64 / taken,
            tokens_per_s: new_tokens as f64 / taken,
            first_token_ms,
            between_deliveries_ms: Times::of(gaps()),
            tokens_per_delivery: parts as f64 / deliveries as f64,
        })
    }

    fn body(&self, model: &str, prompt: String, policy: AskedPolicy) -> Value {
        let mut body = json!({
            "model": model, "prompt": prompt, "max_tokens": self.new_tokens, "temperature": 0,
            "ignore_eos": true, "stream": true, "stream_options": { "include_usage": true },
        });
        if let Some(parameter) = policy.parameter(self.budget) {
            body["quest"] = parameter;
        }
        body
    }
}

fn print(text: &str) -> Result<(), BenchError> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => BenchError::StdoutClosed,
        _ => BenchError::Write {
            path: "stdout".into(),
            message: error.to_string(),
        },
    })
}
