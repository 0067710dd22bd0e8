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

const BACKENDS: [(&str, bool); 7] = [
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
    ("metal", cfg!(feature = "metal")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("flex", cfg!(feature = "flex")),
    ("ndarray", cfg!(feature = "ndarray")),
];

fn main() -> ExitCode {
    let options = Options::parse();
    #[cfg(feature = "gpu")]
    quest_burn::kernel_cache::KernelCacheConfig::new().init();
    match target().and_then(|target| options.bench.run(&target)) {
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

/// The default device, once the name that it goes by is known to be good: Burn panics otherwise.
fn target() -> Result<Target, BenchError> {
    let Some(named) = std::env::var_os("BURN_DEVICE") else {
        let device = Device::default();
        let backend = format!("{device:?}");
        return Ok(Target::new(device, backend));
    };
    let named = named.to_string_lossy().to_lowercase();
    let compiled_in = BACKENDS.iter().filter(|(_, compiled_in)| *compiled_in);
    let compiled_in = compiled_in.map(|(name, _)| *name).collect::<Vec<_>>();
    if !compiled_in.contains(&named.as_str()) {
        return Err(BenchError::Option {
            option: "BURN_DEVICE",
            expected: format!("a backend that is compiled in ({})", compiled_in.join(", ")),
            found: named,
        });
    }
    Ok(Target::new(Device::default(), named))
}
