//! Models that skip channels: what is calibrated, its file, and what comes of it.

use std::{fs, path::Path};

use burn::tensor::Device;
use quest_burn::{inference::WeightFormat, policy::PolicyKind};
use quest_burn_models::{
    ModelError,
    activation_sparsity::{ActivationSparsity, Calibration, CalibrationReport, Projection},
    generation::LikelihoodMode,
    local::LocalModel,
};
use quest_burn_tests::checkpoint::{self, CheckpointSpec};
use tempfile::TempDir;

const VOCAB_SIZE: usize = 160;

fn checkpoint(spec: &CheckpointSpec) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    checkpoint::write(dir.path(), spec);
    dir
}

/// Ids without a pattern.
fn ids(n: usize, seed: usize) -> Vec<u32> {
    let mut state = seed as u64 * 7919 + 1;
    let ids = (0..n).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u32 % VOCAB_SIZE as u32
    });
    ids.collect()
}

fn calibrated(
    path: &Path,
    calibration: Calibration,
) -> Result<(ActivationSparsity, CalibrationReport), ModelError> {
    let model = LocalModel::open(path).unwrap();
    let device = Device::default();
    model.calibrate(&device, &ids(600, 1), calibration, &mut |_| ())
}

fn with_rank(sparsity: f64, rank: usize) -> Calibration {
    Calibration {
        rank,
        window: 100,
        ..Calibration::new(sparsity)
    }
}

fn load(
    path: &Path,
    sparsity: Option<ActivationSparsity>,
    weights: WeightFormat,
) -> Result<LocalModel, ModelError> {
    let model = LocalModel::open(path).unwrap().policy(PolicyKind::Dense);
    let model = model.weights(weights);
    let model = match sparsity {
        Some(sparsity) => model.activation_sparsity(sparsity),
        None => model,
    };
    model.load(&Device::default())
}

/// Likelihoods of tokens that are scored in a mode.
fn likelihoods(model: &LocalModel, mode: LikelihoodMode) -> Vec<f32> {
    let ids = ids(120, 2);
    let mut session = model.session_for(ids.len()).unwrap();
    session.likelihoods(&ids, mode, &mut |_| ()).unwrap()
}

const DECODE: LikelihoodMode = LikelihoodMode::Decode {
    prefill: 60,
    chunk: 32,
};

/// The largest difference.
fn off(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f32::max)
}

#[test]
fn the_share_asked_for_is_skipped_also_in_a_text_that_was_held_out() {
    let dir = checkpoint(&CheckpointSpec::default());
    for sparsity in [0.25, 0.5, 0.7] {
        let (found, report) = calibrated(dir.path(), with_rank(sparsity, 0)).unwrap();
        assert_eq!((found.sparsity(), found.rank()), (sparsity, 0));
        assert_eq!((report.tokens, report.held_out_tokens), (500, 100));
        assert!((report.skipped - sparsity).abs() < 0.003, "{report:?}");
        let held_out = report.held_out_skipped.unwrap();
        assert!((held_out - sparsity).abs() < 0.02, "{report:?}");
        for layer in 0..4 {
            for projection in Projection::ALL {
                assert!(found.threshold(layer, projection) > 0.0);
            }
        }
    }
}

#[test]
fn nothing_is_skipped_at_a_sparsity_of_zero() {
    let dir = checkpoint(&CheckpointSpec::default());
    let (sparsity, report) = calibrated(dir.path(), with_rank(0.0, 0)).unwrap();
    assert_eq!(report.skipped, 0.0);
    let dense = load(dir.path(), None, WeightFormat::Full).unwrap();
    let sparse = load(dir.path(), Some(sparsity), WeightFormat::Full).unwrap();
    let off = off(&likelihoods(&sparse, DECODE), &likelihoods(&dense, DECODE));
    assert!(off < 1e-4, "{off}");
}

#[test]
fn prompts_read_all_channels_and_decoded_tokens_do_not() {
    let dir = checkpoint(&CheckpointSpec::default());
    let (sparsity, _) = calibrated(dir.path(), with_rank(0.5, 0)).unwrap();
    let dense = load(dir.path(), None, WeightFormat::Full).unwrap();
    let sparse = load(dir.path(), Some(sparsity), WeightFormat::Full).unwrap();
    let prompt = LikelihoodMode::Dense { chunk: 40 };
    let of_prompt = off(&likelihoods(&sparse, prompt), &likelihoods(&dense, prompt));
    assert!(of_prompt < 1e-4, "{of_prompt}");
    let decoded = off(&likelihoods(&sparse, DECODE), &likelihoods(&dense, DECODE));
    assert!(decoded > 1e-2, "{decoded}");
}

#[test]
fn factors_take_part_in_decoded_tokens_and_are_nearer_to_the_weights_the_higher_their_rank() {
    let dir = checkpoint(&CheckpointSpec::default());
    let of_rank = |rank| {
        let (sparsity, report) = calibrated(dir.path(), with_rank(0.5, rank)).unwrap();
        assert_eq!(sparsity.rank(), rank);
        let sparse = load(dir.path(), Some(sparsity), WeightFormat::Full).unwrap();
        (likelihoods(&sparse, DECODE), report.low_rank_error)
    };
    let (without, none) = of_rank(0);
    let (few, more) = (of_rank(8), of_rank(32));
    assert_eq!(none, None);
    assert!(more.1.unwrap() < 0.8 * few.1.unwrap(), "{few:?}, {more:?}");
    assert!(off(&without, &few.0) > 1e-3 && off(&few.0, &more.0) > 1e-3);
}

#[test]
fn weights_in_bytes_skip_channels_too() {
    let dir = checkpoint(&CheckpointSpec::default());
    let (sparsity, _) = calibrated(dir.path(), with_rank(0.5, 0)).unwrap();
    let [full, int8] = [WeightFormat::Full, WeightFormat::Int8].map(|weights| {
        let model = load(dir.path(), Some(sparsity.clone()), weights).unwrap();
        assert_eq!(model.weights_name(), weights.name());
        likelihoods(&model, DECODE)
    });
    assert!(int8.iter().all(|x| x.is_finite()));
    // The first one follows the prompt, which skips nothing; in these weights rounding grows with the tokens.
    assert!(
        (int8[0] - full[0]).abs() < 0.3,
        "{} and {}",
        int8[0],
        full[0]
    );
    assert_ne!(int8, full);
}

#[test]
fn what_is_written_is_read_again() {
    let dir = checkpoint(&CheckpointSpec::default());
    let file = dir.path().join(ActivationSparsity::FILE);
    for rank in [0, 4] {
        let (sparsity, _) = calibrated(dir.path(), with_rank(0.4, rank)).unwrap();
        sparsity.write(&file).unwrap();
        assert_eq!(ActivationSparsity::read(&file).unwrap(), sparsity);
        // It does not get in the way of the weights beside it.
        load(dir.path(), Some(sparsity), WeightFormat::Stored).unwrap();
    }
}

#[track_caller]
fn assert_refused<T>(result: Result<T, impl std::fmt::Display>, expected: &str) {
    let error = result.map(drop).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn other_models_are_refused() {
    let dir = checkpoint(&CheckpointSpec::default());
    let (sparsity, _) = calibrated(dir.path(), with_rank(0.5, 0)).unwrap();
    let load = |spec: &CheckpointSpec, weights| {
        let other = checkpoint(spec);
        load(other.path(), Some(sparsity.clone()), weights)
    };
    let wider = CheckpointSpec {
        d_ff: 128,
        ..CheckpointSpec::default()
    };
    assert_refused(
        load(&wider, WeightFormat::Full),
        "expected that of a model with d_ff 128, found one with 96",
    );
    let others = CheckpointSpec {
        seed: 2,
        ..CheckpointSpec::default()
    };
    assert_refused(
        load(&others, WeightFormat::Full),
        "expected the weights that were calibrated",
    );
    let spec = CheckpointSpec::default();
    assert_refused(
        load(&spec, WeightFormat::Int4),
        "expected weights in full, in int8 or in blocks of a GGUF file, found int4",
    );
}

#[test]
fn garbled_files_are_refused_by_what_is_wrong_in_them() {
    let dir = checkpoint(&CheckpointSpec::default());
    let file = dir.path().join("sparsity.safetensors");
    let (sparsity, _) = calibrated(dir.path(), with_rank(0.5, 2)).unwrap();
    sparsity.write(&file).unwrap();
    let bytes = fs::read(&file).unwrap();
    let read = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        ActivationSparsity::read(&file)
    };
    assert_refused(read(b""), "expected a safetensors file");
    assert_refused(
        read(&bytes[..bytes.len() - 1]),
        "expected a safetensors file",
    );
    let model = fs::read(dir.path().join("model.safetensors")).unwrap();
    assert_refused(
        read(&model),
        "format: expected quest-activation-sparsity-1, found",
    );
    let edited = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes
            .windows(from.len())
            .position(|part| part == from.as_bytes());
        let mut edited = bytes.clone();
        edited[at.unwrap()..][..to.len()].copy_from_slice(to.as_bytes());
        edited
    };
    for (from, to, expected) in [
        (
            "\"rank\":\"2\"",
            "\"rank\":\"3\"",
            "`layers.0.self_attn.qkv_proj.down`: expected [64, 3]",
        ),
        (
            "\"rank\":\"2\"",
            "\"rank\":\"x\"",
            "`rank`: expected a number, found x",
        ),
        (
            "\"sparsity\":\"0.5\"",
            "\"sparsity\":\"1.5\"",
            "`sparsity`: expected a share",
        ),
        (
            "\"thresholds\"",
            "\"tresholdss\"",
            "expected a tensor `thresholds`, found none",
        ),
        (
            "\\\"d_ff\\\":96",
            "\\\"d_ff\\\":97",
            "`layers.0.mlp.gate_up_proj.up`: expected [2, 194]",
        ),
    ] {
        assert_refused(read(&edited(from, to)), expected);
    }
    assert_refused(
        ActivationSparsity::read(&dir.path().join("none")),
        "expected a file that can be read",
    );
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let dir = checkpoint(&CheckpointSpec::default());
    for (calibration, expected) in [
        (
            with_rank(1.0, 0),
            "sparsity: expected a share of the channels from 0 to below 1, found 1",
        ),
        (with_rank(f64::NAN, 0), "found NaN"),
        (
            with_rank(0.5, 33),
            "rank: expected from 0 to 32, half of the fewest channels",
        ),
    ] {
        assert_refused(calibrated(dir.path(), calibration), expected);
    }
    let model = LocalModel::open(dir.path()).unwrap();
    let short = model.calibrate(
        &Device::default(),
        &ids(63, 1),
        Calibration::new(0.5),
        &mut |_| (),
    );
    assert_refused(
        short,
        "text: expected at least 64 tokens to calibrate on, found 63",
    );
}
