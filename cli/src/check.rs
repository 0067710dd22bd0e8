//! `quest check`: what someone with a new device runs first.

use anyhow::anyhow;
use burn::tensor::DType;
use clap::Args;
use quest_burn::{QuestConfig, policy::PolicyConfig};
use quest_burn_benches::{Kind, Launch, Record, Target};
use quest_burn_experiments::passkey::{PasskeyPrompt, is_correct};
use quest_burn_models::{generation::GenerationConfig, tokenizer::Tokenizer};
use serde::Serialize;

use crate::{
    device::{self, DeviceName, SelectedDevice, value_name},
    failure::Failure,
    folder::ModelFolder,
    output::{print_json, print_line},
};

#[derive(Args)]
pub(crate) struct CheckArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    device: DeviceName,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    ok: bool,
    version: &'static str,
    commit: Option<&'static str>,
    device: String,
    backend: String,
    driver: Option<String>,
    /// What the device's memory gives to a plain copy.
    copy_gb_per_s: Option<f64>,
    /// The share of it that attention through Quest comes to, at best.
    attention_copy_share: Option<f64>,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    what: String,
    how: String,
    outcome: Outcome,
    /// Largest deviation from what it should be, over its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Wrong,
    /// The device does not do this.
    Skipped,
}

pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let selected = device::select(args.device)?;
    let target = Target::new(selected.device.clone(), value_name(selected.name));
    eprintln!("check: kernels");
    let records = quest_burn_benches::check(&target)?;
    let mut checks = records.iter().map(Check::of_kernel).collect::<Vec<_>>();
    eprintln!("check: the model that ships with the program");
    checks.extend(model_checks(&selected)?);

    let best = |operation: &str, value: fn(&Record) -> Option<f64>| {
        let of = records
            .iter()
            .filter(|record| record.operation == operation);
        of.filter_map(value).reduce(f64::max)
    };
    let report = Report {
        ok: checks.iter().all(|check| check.outcome != Outcome::Wrong),
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("QUEST_COMMIT"),
        device: target.name().to_owned(),
        backend: target.backend().to_owned(),
        driver: target.driver().map(str::to_owned),
        copy_gb_per_s: best("copy", |record| record.gb_per_s),
        attention_copy_share: best("top_k_attention", |record| record.copy_share),
        checks,
    };
    match args.json {
        true => print_json(&report)?,
        false => print_table(&report)?,
    }
    let wrong = report
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Wrong);
    match wrong.count() {
        0 => Ok(()),
        wrong => Err(Failure::internal(anyhow!(
            "{wrong} checks found something wrong"
        ))),
    }
}

impl Check {
    fn of_kernel(record: &Record) -> Self {
        let launch = record.launch.map(|launch| match launch {
            Launch::Graph => "recorded",
            Launch::Plain => "plain",
        });
        let digests = record.digests.filter(|&digests| digests != "full");
        let digests = digests.map(|digests| format!("digests {digests}"));
        let how = [record.dtype.clone(), digests, launch.map(str::to_owned)];
        Self {
            what: record.operation.clone(),
            how: how.into_iter().flatten().collect::<Vec<_>>().join(", "),
            outcome: match record.kind {
                Kind::Failed => Outcome::Wrong,
                Kind::Skipped => Outcome::Skipped,
                _ => Outcome::Ok,
            },
            deviation: record.max_error,
            gb_per_s: record.gb_per_s,
            note: record.reason.clone(),
        }
    }
}

/// What the model that ships with the program answers, in f32 on a CPU: the hidden number.
const PASSKEY: u32 = 31_415;
const GOLDEN: [u32; 8] = [222, 20, 18, 21, 18, 22, 15, 200];

/// The shipped model's answer, densely and through Quest, with decode steps recorded and not: the
/// same ids everywhere, those that are stored.
fn model_checks(selected: &SelectedDevice) -> Result<Vec<Check>, Failure> {
    let Ok(folder) = ModelFolder::open(None) else {
        return Ok(vec![Check {
            what: "model".into(),
            how: "answer".into(),
            outcome: Outcome::Skipped,
            deviation: None,
            gb_per_s: None,
            note: Some("this build carries no model".into()),
        }]);
    };
    let mut checks = Vec::new();
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    for dtype in dtypes {
        if !selected.device.supports_dtype(dtype) {
            continue;
        }
        let model = folder.model()?.dtype(dtype).load(&selected.device);
        let model = model.map_err(anyhow::Error::new)?;
        let tokenizer = model
            .tokenizer()
            .ok_or_else(|| anyhow!("the model has no tokenizer"))?;
        let prompt = PasskeyPrompt::fit(tokenizer, 1024, 0.4, PASSKEY, 1)?;
        // A CPU records nothing.
        let launches = match selected.name.is_cpu() {
            true => &[("plain", false)][..],
            false => &[("recorded", true), ("plain", false)],
        };
        for (policy, config) in policies() {
            for &(launch, capture) in launches {
                let chosen =
                    (config.clone().init(model.page_size())).map_err(anyhow::Error::new)?;
                let mut session = model.session_for(1024 + 16)?;
                session.set_policy(chosen.into());
                let config = GenerationConfig::new()
                    .with_max_new_tokens(GOLDEN.len())
                    .with_capture(capture);
                let answer = session.generate_ids(&prompt.ids, config)?;
                let answer = answer.collect::<Result<Vec<_>, _>>()?;
                let how = format!("{policy}, {}, {launch}", dtype.name());
                checks.push(of_answer(how, &answer, tokenizer)?);
            }
        }
    }
    Ok(checks)
}

fn policies() -> [(&'static str, PolicyConfig); 2] {
    use quest_burn::policy::PolicyKind;

    let quest = QuestConfig::kv_group().with_token_budget(256);
    [
        ("dense", PolicyConfig::from(PolicyKind::Dense)),
        ("quest", PolicyConfig::from(quest)),
    ]
}

fn of_answer(how: String, answer: &[u32], tokenizer: &Tokenizer) -> Result<Check, Failure> {
    let text = tokenizer.decode(answer).map_err(Failure::internal)?;
    let is_right = answer == GOLDEN && is_correct(&text, PASSKEY);
    Ok(Check {
        what: "model answer".into(),
        how,
        outcome: match is_right {
            true => Outcome::Ok,
            false => Outcome::Wrong,
        },
        deviation: None,
        gb_per_s: None,
        note: (!is_right)
            .then(|| format!("expected {PASSKEY} as {GOLDEN:?}, found {text:?} as {answer:?}")),
    })
}

fn print_table(report: &Report) -> Result<(), Failure> {
    let commit = report.commit.unwrap_or("unknown");
    print_line(&format!("quest {} at {commit}", report.version))?;
    print_line(&format!("{} through {}", report.device, report.backend))?;
    if let Some(driver) = &report.driver {
        print_line(&format!("driver {driver}"))?;
    }
    print_line("")?;
    let number = |value: Option<f64>, digits| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    print_line(&format!(
        "{:<16} {:<32} {:<8} {:>10} {:>8}",
        "operation", "how", "outcome", "deviation", "GB/s"
    ))?;
    for check in &report.checks {
        let deviation = match check.deviation {
            Some(deviation) => format!("{deviation:.1e}"),
            None => "-".to_owned(),
        };
        let outcome = format!("{:?}", check.outcome).to_lowercase();
        print_line(&format!(
            "{:<16} {:<32} {outcome:<8} {deviation:>10} {:>8}{}",
            check.what,
            check.how,
            number(check.gb_per_s, 1),
            match &check.note {
                Some(note) => format!("  {note}"),
                None => String::new(),
            }
        ))?;
    }
    print_line("")?;
    print_line(&format!(
        "copy {} GB/s; attention through Quest comes to {} of it",
        number(report.copy_gb_per_s, 1),
        match report.attention_copy_share {
            Some(share) => format!("{:.0} %", 100.0 * share),
            None => "-".to_owned(),
        }
    ))?;
    print_line(match report.ok {
        true => "everything is right",
        false => "something is wrong",
    })
}
