//! `quest convert`

use std::{
    fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::BinaryBytes;
use quest_burn::inference::WeightFormat;
use quest_burn_models::convert::{Conversion, ConvertError, Converted, Report, Target, convert};
use serde::Serialize;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag::register,
};
use tempfile::TempDir;

use crate::{
    failure::Failure,
    folder::ModelFolder,
    options::{DTypeName, weight_formats},
    output::{Progress, Unit, print_json, print_line},
};

#[derive(Args)]
pub(crate) struct ConvertArgs {
    /// Folder of a Hugging Face checkpoint, a GGUF file, or a model of the hub: `org/name`,
    /// `org/name@revision`, `org/name:Q4_K_M` [default: the model that ships with the program]
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Folder that is written; there must be nothing yet
    #[arg(value_name = "FOLDER")]
    output: PathBuf,
    /// What weights are written as
    #[arg(long, value_enum, default_value_t = TargetName::Safetensors)]
    to: TargetName,
    /// Element type of the weights [default: their own, so that nothing changes; f32 for the blocks of
    /// GGUF files]
    #[arg(long, value_enum)]
    dtype: Option<DTypeName>,
    /// Form of the weights of the layers' projections: in few bits they are written as GPTQ stores them, and
    /// loaded without being rounded again
    #[arg(long, value_name = "FORM", value_parser = weight_formats(), default_value_t = WeightFormat::Full)]
    weights: WeightFormat,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TargetName {
    /// `model.safetensors`, as transformers reads it
    Safetensors,
    /// `model.bpk`, Burn's own format
    Burnpack,
}

impl TargetName {
    fn target(self) -> Target {
        match self {
            Self::Safetensors => Target::Safetensors,
            Self::Burnpack => Target::Burnpack,
        }
    }
}

/// What is printed.
#[derive(Serialize)]
struct Written<'a> {
    folder: &'a Path,
    format: Target,
    #[serde(flatten)]
    converted: &'a Converted,
}

pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    // Refused before anything is downloaded.
    let parent = free_place(&args.output)?;
    let model = ModelFolder::open(args.model.as_deref())?;
    let source = model.source()?;
    let conversion = Conversion {
        target: args.to.target(),
        dtype: args.dtype.map(DTypeName::dtype),
        weights: args.weights,
        ..Conversion::default()
    };
    let report = report(stopped_by_signals()?);
    let place = Place::new(&args.output, parent)?;
    let converted = convert(&*source, &place.folder(), &conversion, report).map_err(failure)?;
    place.finish()?;
    let written = Written {
        folder: &args.output,
        format: conversion.target,
        converted: &converted,
    };
    if args.json {
        return print_json(&written);
    }
    print_line(&format!(
        "{}: {} tensors, {}, in {} files",
        args.output.display(),
        converted.tensors,
        BinaryBytes(converted.tensor_bytes),
        converted.files.len(),
    ))
}

/// The folder around one that is to be written and is not there yet.
fn free_place(output: &Path) -> anyhow::Result<&Path> {
    let shown = output.display();
    match fs::symlink_metadata(output) {
        Ok(_) => bail!("{shown}: expected nothing there yet, found something"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error).context(shown.to_string()),
    }
    let parent = match output.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        let parent = parent.display();
        bail!("{shown}: expected the folder {parent} to write it in, found none");
    }
    Ok(parent)
}

/// A folder that is written next to its final place and moved there when it is complete.
struct Place<'a> {
    output: &'a Path,
    /// Removed with all that is in it.
    partial: TempDir,
}

impl<'a> Place<'a> {
    const INNER: &'static str = "model";

    fn new(output: &'a Path, parent: &Path) -> anyhow::Result<Self> {
        let shown = output.display();
        let Some(name) = output.file_name() else {
            bail!("{shown}: expected a folder's name");
        };
        let partial = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".partial")
            .tempdir_in(parent)
            .with_context(|| format!("{shown}: expected a place that can be written"))?;
        // Of the permissions that folders have here, which the one around it does not.
        fs::create_dir(partial.path().join(Self::INNER)).context(shown.to_string())?;
        Ok(Self { output, partial })
    }

    fn folder(&self) -> PathBuf {
        self.partial.path().join(Self::INNER)
    }

    fn finish(self) -> Result<(), Failure> {
        let moved = fs::rename(self.folder(), self.output);
        let named = moved.with_context(|| self.output.display().to_string());
        named.map_err(Failure::Internal)
    }
}

/// Whether a signal asked the program to end: what is half written is removed first.
fn stopped_by_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let is_stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        register(signal, is_stopped.clone()).context("signals")?;
    }
    Ok(is_stopped)
}

fn report(is_stopped: Arc<AtomicBool>) -> Box<Report> {
    let progress = Mutex::new(None);
    Box::new(move |done, total| {
        if let Ok(mut progress) = progress.lock() {
            progress
                .get_or_insert_with(|| Progress::new("converting", Unit::Bytes, total))
                .set(done);
        }
        match is_stopped.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })
}

fn failure(error: ConvertError) -> Failure {
    match error {
        ConvertError::Stopped => {
            Failure::Interrupted("the conversion was interrupted; nothing is left of it")
        }
        ConvertError::Write { .. } | ConvertError::Weights { .. } => Failure::internal(error),
        other => Failure::BadInput(other.into()),
    }
}
