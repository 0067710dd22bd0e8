//! A server that is started to be measured.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, anyhow};

use crate::{
    device::{DeviceName, value_name},
    failure::Failure,
};

/// This program as `quest serve`, a process of its own as any other server is one. It ends with this value.
pub(super) struct Server {
    child: Child,
    url: String,
}

impl Server {
    /// Starts it at a port that is free, and waits until it serves.
    pub(super) fn start(device: DeviceName, arguments: &[String]) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::internal)?;
        let mut command = Command::new(program);
        command.args(["serve", "--port", "0", "--device", &value_name(device)]);
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::null());
        let child = command.spawn().context("quest serve");
        let mut server = Self {
            child: child.map_err(Failure::internal)?,
            url: String::new(),
        };
        let stdout = server.child.stdout.take().expect("it is piped");
        let read = BufReader::new(stdout).read_line(&mut server.url);
        read.map_err(Failure::internal)?;
        server.url.truncate(server.url.trim_end().len());
        if !server.url.starts_with("http") {
            // It has said why on stderr.
            let ended = server.child.wait().map_err(Failure::internal)?;
            let error = anyhow!("quest serve: expected a server, found that it ended with {ended}");
            return Err(match ended.code() {
                Some(2) => Failure::BadInput(error),
                _ => Failure::internal(error),
            });
        }
        Ok(server)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whatever it is still at, nobody waits for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
