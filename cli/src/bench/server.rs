//! A server that is started to be measured.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, anyhow};
use clap::{CommandFactory, FromArgMatches, Parser};
use quest_burn_benches::{API_KEY_VARIABLE, StartedServer};

use crate::{
    device::{DeviceName, value_name},
    failure::Failure,
    serve::ServeArgs,
    with_dashes_in_values,
};

/// This program as `quest serve`, a process of its own as any other server is one. It ends with this value, and by its
/// stdin with this process, however that ends.
pub(super) struct Server {
    child: Child,
    started: StartedServer,
}

/// The options that the server is given, as it reads them.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArgs,
}

impl Server {
    /// Starts it at a port that is free, for requests with a key if there is one, and waits until it serves.
    pub(super) fn start(
        device: DeviceName,
        arguments: &[String],
        key: Option<&str>,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::internal)?;
        let mut command = Command::new(program);
        command.args(["serve", "--port", "0", "--device", &value_name(device)]);
        command
            .arg("--until-stdin-closes")
            .args(arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::piped())
            .envs(key.map(|key| (API_KEY_VARIABLE, key)));
        let child = command.spawn().context("quest serve");
        let mut server = Self {
            child: child.map_err(Failure::internal)?,
            started: StartedServer {
                url: String::new(),
                policy: String::new(),
                budget: 0,
            },
        };
        let stdout = server.child.stdout.take().expect("it is piped");
        let url = &mut server.started.url;
        let read = BufReader::new(stdout).read_line(url);
        read.map_err(Failure::internal)?;
        url.truncate(url.trim_end().len());
        if !url.starts_with("http") {
            // It has said why on stderr.
            let ended = server.child.wait().map_err(Failure::internal)?;
            let error = anyhow!("quest serve: expected a server, found that it ended with {ended}");
            return Err(match ended.code() {
                Some(2) => Failure::BadInput(error),
                _ => Failure::internal(error),
            });
        }
        // It serves, so it has taken them.
        let command = with_dashes_in_values(Arguments::command());
        let taken = command.try_get_matches_from(arguments);
        let taken = taken.and_then(|matches| Arguments::from_arg_matches(&matches));
        let policy = taken.map_err(Failure::internal)?.serve.policy();
        server.started.policy = policy.kind.name().to_owned();
        server.started.budget = policy.quest.token_budget;
        Ok(server)
    }

    pub(super) fn started(&self) -> &StartedServer {
        &self.started
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever it is still at, nobody waits for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
