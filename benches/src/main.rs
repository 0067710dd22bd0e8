//! The benchmarks alone, on the device that `BURN_DEVICE` names or else the first that is compiled
//! in: what `quest bench` is, in a program that is built sooner.

use std::process::ExitCode;

use burn::tensor::Device;
use clap::Parser;
use quest_burn_benches::{BenchError, BenchOptions, Target};

#[derive(Parser)]
#[command(about, version)]
struct Options {
    #[command(flatten)]
    bench: BenchOptions,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let device = Device::default();
    let backend = std::env::var("BURN_DEVICE").unwrap_or_else(|_| format!("{device:?}"));
    match options.bench.run(&Target::new(device, backend)) {
        Ok(()) | Err(BenchError::StdoutClosed) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            match error.is_bad_request() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}
