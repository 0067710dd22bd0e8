use burn::{
    nn::RmsNormConfig,
    tensor::{Device, Distribution, TensorData, Tolerance},
};
use std::sync::Mutex;

use super::*;
use crate::{InferenceLinear, LinearWeight};

fn layer(weight: SparseWeight) -> InferenceLinear {
    InferenceLinear::with_weight(LinearWeight::Sparse(weight), None)
}

/// `diag(3, 2, 1)`: norms of 3, 2 and 1.
fn diagonal() -> Tensor<2> {
    let rows = [[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]];
    Tensor::from_data(rows, &Device::default())
}

/// Scores of 3, 2 and 4 with those norms.
fn row() -> Tensor<2> {
    Tensor::from_data([[1.0, -1.0, 4.0]], &Device::default())
}

#[track_caller]
fn assert_output(weight: SparseWeight, expected: [f32; 3]) {
    let expected = TensorData::from([expected]);
    for output in [weight.reference(row()), layer(weight).forward(row())] {
        output
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }
}

#[test]
fn channels_up_to_the_threshold_are_skipped() {
    assert_output(SparseWeight::new(diagonal(), 2.5, None), [3.0, 0.0, 4.0]);
    assert_output(SparseWeight::new(diagonal(), 3.0, None), [0.0, 0.0, 4.0]);
    assert_output(SparseWeight::new(diagonal(), 0.0, None), [3.0, -2.0, 4.0]);
    let int8 = SparseWeight::int8(Tensor::zeros([16, 3], &Device::default()), 0.0, None);
    assert_eq!(int8.unwrap().dims(), [16, 3]);
}

#[test]
fn factors_make_up_for_what_is_skipped_where_their_rank_reaches_it() {
    // The singular vectors of a diagonal matrix are its channels.
    let with_rank = |rank: usize| {
        let device = Device::default();
        let factors = LowRank {
            down: diagonal().narrow(1, 0, rank),
            up: Tensor::eye(3, &device).narrow(0, 0, rank),
        };
        SparseWeight::new(diagonal(), 2.5, Some(factors))
    };
    // Only the second channel is skipped.
    assert_output(with_rank(1), [3.0, 0.0, 4.0]);
    assert_output(with_rank(2), [3.0, -2.0, 4.0]);
}

fn random(dims: [usize; 2]) -> Tensor<2> {
    Tensor::random(dims, Distribution::Normal(0.0, 1.0), &Device::default())
}

#[test]
fn no_threshold_is_the_dense_layer_to_rounding() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let weight = random([160, 96]).cast(dtype);
        let bias = random([1, 160]).cast(dtype).squeeze_dim::<1>(0);
        let dense = InferenceLinear::new(weight.clone(), Some(bias.clone()));
        let sparse = SparseWeight::new(weight, 0.0, None);
        let sparse = dense.clone().replace_weight(LinearWeight::Sparse(sparse));
        let tolerance = match dtype {
            DType::F32 => 1e-4,
            DType::F16 => 0.04,
            _ => 0.3,
        };
        for m in [1, 2, 20] {
            let rows = random([m, 96]).cast(dtype);
            let [sparse, dense] =
                [&sparse, &dense].map(|layer| layer.forward(rows.clone()).into_data());
            sparse.assert_approx_eq::<f32>(&dense, Tolerance::absolute(tolerance));
        }
    }
}

#[test]
fn native_code_skips_what_the_reference_masks() {
    let weight = random([96, 64]);
    let (low_rank, _) = LowRank::of(&weight, 8);
    for low_rank in [None, Some(low_rank)] {
        let full = SparseWeight::new(weight.clone(), 6.0, low_rank.clone());
        let int8 = SparseWeight::int8(weight.clone(), 6.0, low_rank).unwrap();
        for weight in [full, int8] {
            for m in [1, 3] {
                let rows = random([m, 64]);
                let expected = weight.reference(rows.clone()).into_data();
                let found = layer(weight.clone()).forward(rows).into_data();
                found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
            }
        }
    }
}

#[test]
fn factors_bring_an_output_nearer_to_the_dense_one() {
    let (weight, row) = (random([96, 64]), random([1, 64]));
    let dense = row.clone().matmul(weight.clone().transpose());
    let off = |low_rank| {
        let sparse = SparseWeight::new(weight.clone(), 7.0, low_rank);
        let off = layer(sparse).forward(row.clone()) - dense.clone();
        off.square().sum().sqrt().into_scalar::<f32>()
    };
    let (without, with) = (off(None), off(Some(LowRank::of(&weight, 32).0)));
    assert!(0.0 < with && with < 0.7 * without, "{with} and {without}");
}

#[test]
fn weights_in_bytes_are_near_the_whole_ones() {
    let weight = random([192, 64]);
    let int8 = SparseWeight::int8(weight.clone(), 0.0, None).unwrap();
    assert!(int8.bytes() < 192 * 64 * 4 / 3);
    let off = (int8.dequantize() - weight.clone()).abs().max();
    let step = weight.abs().max() / 127.0;
    assert!(off.into_scalar::<f32>() <= 0.51 * step.into_scalar::<f32>());
}

#[test]
fn outputs_without_groups_are_refused() {
    let error = SparseWeight::int8(random([10, 64]), 0.0, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "quantised weights by input channels: expected a multiple of 16 output channels, found a \
         layer of 10"
    );
}

#[test]
fn what_is_no_number_is_not_skipped() {
    let weight = SparseWeight::new(diagonal(), 100.0, None);
    let row = Tensor::<2>::from_data([[1.0, f32::NAN, 1.0]], &Device::default());
    for output in [weight.reference(row.clone()), layer(weight).forward(row)] {
        assert!(output.is_nan().any().into_scalar::<bool>());
    }
}

#[test]
fn an_observer_sees_the_rows_once_as_the_weights_do() {
    let device = Device::default();
    let norm = RmsNormConfig::new(6).init(&device);
    let dense = InferenceLinear::new(random([8, 6]), None);
    let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let observed = dense.clone().with_observer(InputObserver::new(move |rows| {
        note.lock().unwrap().push(rows);
    }));
    let rows = random([2, 6]);
    let residual = random([2, 8]);
    let outputs = |layer: &InferenceLinear| {
        [
            layer.forward(rows.clone()),
            layer.forward_added(rows.clone(), residual.clone()),
            layer.forward_normed(rows.clone(), &norm),
            layer.forward_normed_gated(rows.clone(), &norm),
        ]
    };
    for (found, expected) in outputs(&observed).into_iter().zip(outputs(&dense)) {
        let expected = expected.into_data();
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }
    let normed = crate::rms_norm(&norm, rows.clone());
    let expected = [rows.clone(), rows.clone(), normed.clone(), normed];
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), expected.len());
    for (found, expected) in seen.iter().zip(expected) {
        found
            .clone()
            .into_data()
            .assert_eq(&expected.into_data(), true);
    }
}
