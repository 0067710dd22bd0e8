//! `quest bench`

#[cfg(feature = "serve")]
mod server;

use clap::Args;
use quest_burn_benches::{BenchError, BenchOptions, Target};

use crate::{
    device::{self, DeviceName, value_name},
    failure::Failure,
};

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceName::Auto, global = true)]
    device: DeviceName,
    #[command(flatten)]
    bench: BenchOptions,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    #[cfg(feature = "serve")]
    if let Some(options) = args.bench.serve() {
        let server = options.server();
        let key = options.api_key()?;
        let server =
            server.map(|arguments| server::Server::start(args.device, &arguments, key.as_deref()));
        let server = server.transpose()?;
        let started = server.as_ref().map(server::Server::started);
        return (args.bench.run_serve(options, started)).map_err(Failure::from);
    }
    let selected = device::select(args.device)?;
    let target = Target::new(selected.device, value_name(selected.name));
    args.bench.run(&target).map_err(Failure::from)
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::StdoutClosed => Self::StdoutClosed,
            error if error.is_bad_request() => Self::BadInput(error.into()),
            error => Self::internal(error),
        }
    }
}
