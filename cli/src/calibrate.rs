//! `quest calibrate`

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use quest_burn::{
    cache::{DigestStorage, KvStorage},
    digest::DigestKind,
    inference::WeightFormat,
};
use quest_burn_models::{
    activation_sparsity::{Calibration, CalibrationReport},
    generation::check_context,
    local::LocalModel,
};
use quest_burn_report::{count, file::check_writable};
use serde::Serialize;

use crate::{
    device::{self, DeviceName, value_name},
    failure::Failure,
    folder::ModelFolder,
    memory::{self, Demand, Form, Work},
    options::{DTypeName, beside},
    output::{Progress, Unit, print_json, print_line},
    text::TextOptions,
};

#[derive(Args)]
pub(crate) struct CalibrateArgs {
    /// Folder of a Hugging Face checkpoint, a GGUF file, or a model of the hub [default: the model that ships
    /// with the program]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    text: TextOptions,
    /// Share of the input channels of each projection that decoded tokens skip, from 0 to below 1
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    sparsity: f64,
    /// Rank of factors that make up for skipped channels; 0 for none
    #[arg(long, value_name = "R", default_value_t = 0)]
    rank: usize,
    /// Tokens of the text that are a context of their own
    #[arg(long, value_name = "N", value_parser = count::tokens, default_value = "512")]
    window: usize,
    /// Where thresholds and factors are written [default: quest-sparsity.safetensors beside the checkpoint]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    device: DeviceName,
    /// Element type of weights [default: f32 on CPUs and wgpu, else the checkpoint's half type or f16]
    #[arg(long, value_enum)]
    dtype: Option<DTypeName>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Calibrated<'a> {
    file: &'a PathBuf,
    bytes: u64,
    sparsity: f64,
    rank: usize,
    #[serde(flatten)]
    report: &'a CalibrationReport,
    device: String,
    dtype: &'static str,
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    let output = output(args)?;
    let folder = ModelFolder::open(args.model.as_deref())?;
    let model = folder.model()?;
    let output = output.unwrap_or_else(|| beside(model.path()));
    check_writable(&output).with_context(|| output.display().to_string())?;
    let calibration = Calibration {
        rank: args.rank,
        window: args.window,
        ..Calibration::new(args.sparsity)
    };
    let config = model.config();
    calibration.check(config).map_err(anyhow::Error::new)?;
    let ids = args.text.read(model.tokenizer())?;
    let window = args.window.min(ids.len());
    check_context(window, 0, Some(config.max_positions))?;

    let device = device::select(args.device)?;
    let asked = args.dtype.map(DTypeName::dtype);
    let dtype = device.dtype(asked, config.dtype)?;
    let demand = Demand {
        config,
        form: Form {
            dtype,
            weights: WeightFormat::Stored,
        },
        kept: model
            .kept_weights(&device.device)
            .map_err(anyhow::Error::new)?,
        page_size: LocalModel::PAGE_SIZE,
        digest: DigestKind::default(),
        digest_storage: DigestStorage::Full,
        kv_storage: KvStorage::Full,
        is_lazy: false,
        frees_pages: false,
        tokens: window,
        work: Work::chunk(window),
    };
    memory::check(&demand, &device)?;
    let mut progress = Progress::new("calibrating", Unit::Tokens, ids.len() as u64);
    let (sparsity, report) = (model.dtype(dtype))
        .calibrate(&device.device, &ids, calibration, &mut |done| {
            progress.set(done as u64);
        })
        .map_err(anyhow::Error::new)?;
    drop(progress);
    sparsity.write(&output).map_err(anyhow::Error::new)?;
    let written = output.metadata().map_err(Failure::internal)?;
    let calibrated = Calibrated {
        file: &output,
        bytes: written.len(),
        sparsity: args.sparsity,
        rank: args.rank,
        report: &report,
        device: value_name(device.name),
        dtype: dtype.name(),
    };
    if args.json {
        return print_json(&calibrated);
    }
    print(&calibrated)
}

/// Where to write, if it is said. Nothing can be beside the model in the program.
fn output(args: &CalibrateArgs) -> anyhow::Result<Option<PathBuf>> {
    match (&args.output, &args.model) {
        (None, None) => {
            bail!("--output: expected a file, found none, and no --model to write it beside")
        }
        (output, _) => Ok(output.clone()),
    }
}

fn print(calibrated: &Calibrated) -> Result<(), Failure> {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let report = calibrated.report;
    print_line(&format!("file       {}", calibrated.file.display()))?;
    print_line(&format!(
        "skipped    {} of the channels in {} tokens",
        percent(report.skipped),
        report.tokens
    ))?;
    if let Some(skipped) = report.held_out_skipped {
        print_line(&format!(
            "held out   {} in {} others",
            percent(skipped),
            report.held_out_tokens
        ))?;
    }
    if let Some(error) = report.low_rank_error {
        let (rank, error) = (calibrated.rank, percent(error));
        print_line(&format!(
            "factors    of rank {rank}, off by {error} of the weights' norm"
        ))?;
    }
    Ok(())
}
