//! Linear layers of one row that read the input channels that matter to it. Channels that are skipped are NaN in
//! memory, so that whoever reads them betrays it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    module::Param,
    nn::{RmsNorm, RmsNormConfig},
    tensor::{DType, Device, Tensor, TensorData},
};
use quest_burn_linear::{
    InferenceLinear, LinearWeight, LowRank, QuantizationConfig, QuantizedWeight, SparseWeight,
    kernels::linear::{ChannelWeight, KernelWeight, PackedWeight, gemv, sparse_gemv},
};
use quest_burn_tests::arrays::assert_close;
use rand::{SeedableRng, rngs::StdRng};

use super::{
    EPSILON, floats,
    linear_inputs::{AROUND, Around, LinearInputs},
    packed_linear::unpacked,
    random, random_within, targets, tensor, tolerance,
};

/// Channels and outputs.
const SHAPES: [[usize; 2]; 9] = [
    [1, 2],
    [7, 10],
    [64, 32],
    [1000, 34],
    [130, 1030],
    // Segments of the channels.
    [4096, 6],
    [2816, 136],
    // More outputs than cubes take at once.
    [16, 9000],
    // More channels than a cube lists at a time.
    [515, 16_386],
];

/// Scores `|x| * norm` as the kernel computes them.
fn scores(x: &[f64], norms: &[f32]) -> Vec<f32> {
    let scores = x.iter().zip(norms);
    scores.map(|(&x, norm)| (x as f32).abs() * norm).collect()
}

/// A threshold that skips about such a share of the channels, far from any score.
fn threshold(scores: &[f32], share: f64) -> f32 {
    let n = scores.len();
    let skipped = (share * n as f64) as usize;
    if skipped == 0 {
        return -1.0;
    }
    if skipped == n {
        return f32::MAX;
    }
    let mut sorted = scores.to_vec();
    sorted.sort_by(f32::total_cmp);
    let near = skipped.saturating_sub(n / 16).max(1)..=(skipped + n / 16).min(n - 1);
    let gap = |i: usize| sorted[i] - sorted[i - 1];
    let widest = near.max_by(|&a, &b| gap(a).total_cmp(&gap(b))).unwrap();
    (sorted[widest] + sorted[widest - 1]) / 2.0
}

/// The norm of each channel's weights, `[k, n]`.
fn norms(weights: &[f64], n: usize) -> Vec<f32> {
    let norm = |weights: &[f64]| weights.iter().map(|w| w * w).sum::<f64>().sqrt() as f32;
    weights.chunks_exact(n).map(norm).collect()
}

/// Weights `[k, n]` as they are stored, and what they stand for.
enum Stored {
    Whole(Vec<f64>),
    Int8(Box<QuantizedWeight>),
}

impl Stored {
    fn values(&self) -> Vec<f64> {
        match self {
            Self::Whole(values) => values.clone(),
            Self::Int8(weight) => unpacked(weight),
        }
    }

    /// On the device, with NaN in some channels.
    fn poisoned(
        &self,
        [k, n]: [usize; 2],
        poisoned: &[bool],
        (device, dtype): (&Device, DType),
    ) -> KernelWeight {
        match self {
            Self::Whole(values) => poisoned_rows(values, [k, n], poisoned, dtype, device).into(),
            Self::Int8(weight) => {
                let scales = floats(weight.scales());
                let dims = weight.scales().dims();
                let scales = poisoned_rows(&scales, dims, poisoned, DType::F32, device);
                let packed = weight.packed();
                PackedWeight { scales, ..packed }.into()
            }
        }
    }
}

fn poisoned_rows(
    values: &[f64],
    [k, n]: [usize; 2],
    poisoned: &[bool],
    dtype: DType,
    device: &Device,
) -> Tensor<2> {
    let values = values.iter().enumerate();
    let values = values.map(|(i, &x)| if poisoned[i / n] { f32::NAN } else { x as f32 });
    tensor(&values.collect::<Vec<_>>(), [k, n], dtype, device)
}

/// Factors on the host, `[k, rank]` and `[rank, n]`.
struct Factors {
    rank: usize,
    down: Vec<f64>,
    up: Vec<f64>,
}

/// A layer of random inputs, of which a share of the channels is skipped.
struct Case<'a> {
    dims: [usize; 2],
    around: Around,
    share: f64,
    stored: Stored,
    factors: Option<Factors>,
    target: (&'a Device, DType),
}

impl Case<'_> {
    /// Holds the kernel's outputs against sums on the host.
    fn check(&self, rng: &mut StdRng) {
        let ([k, n], around, (device, dtype)) = (self.dims, self.around, self.target);
        let inputs = LinearInputs::new([1, k, n], around, self.target, rng);
        let values = self.stored.values();
        let norms = norms(&values, n);
        let scores = scores(&inputs.multiplied(), &norms);
        let threshold = threshold(&scores, self.share);
        let skipped: Vec<bool> = scores.iter().map(|&score| score <= threshold).collect();
        let active: Vec<bool> = skipped.iter().map(|skipped| !skipped).collect();

        let factors = self.factors.as_ref().map(|factors| {
            let Factors { rank, down, up } = factors;
            let nothing = vec![false; *rank];
            [
                poisoned_rows(down, [k, *rank], &active, dtype, device),
                poisoned_rows(up, [*rank, n], &nothing, dtype, device),
            ]
        });
        let weight = ChannelWeight {
            weights: self.stored.poisoned([k, n], &skipped, self.target),
            norms: Tensor::from_data(TensorData::new(norms, [k]), (device, DType::F32)),
            threshold,
            factors,
        };
        let output = sparse_gemv(
            inputs.rows(),
            inputs.norm(),
            weight,
            inputs.bias(),
            inputs.residual(),
            around.gated,
        );

        // By outputs, with what a skipped channel is instead.
        let mut effective = vec![0.0; n * k];
        for channel in 0..k {
            for output in 0..n {
                effective[output * k + channel] = match (&self.factors, skipped[channel]) {
                    (_, false) => values[channel * n + output],
                    (None, true) => 0.0,
                    (Some(Factors { rank, down, up }), true) => (0..*rank)
                        .map(|r| down[channel * rank + r] * up[r * n + output])
                        .sum(),
                };
            }
        }
        let what = format!(
            "{k} channels, {n} outputs, {dtype:?}, {around:?}, {:.2} skipped, int8: {}, rank {}",
            self.share,
            matches!(self.stored, Stored::Int8(_)),
            self.factors.as_ref().map_or(0, |factors| factors.rank)
        );
        let expected = inputs.expected(&effective);
        assert_close(&floats(&output), &expected, 4.0 * tolerance(dtype), &what);
    }
}

/// Weights with sums of about one.
fn whole([k, n]: [usize; 2], (device, dtype): (&Device, DType), rng: &mut StdRng) -> Stored {
    let most = 2.0 / (k as f32).sqrt();
    let (_, values) = random_within(most, [k, n], dtype, device, rng);
    Stored::Whole(values)
}

#[test]
fn rows_times_the_channels_that_matter_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(31);
    for (device, dtype) in targets() {
        let target = (&device, dtype);
        for dims in SHAPES {
            for around in [AROUND[0], AROUND[1], AROUND[4]] {
                for share in [0.0, 0.5, 0.9, 1.0] {
                    let is_large = dims[0] * dims[1] > 1 << 20;
                    if is_large && (share, around.normed) != (0.5, true) {
                        continue;
                    }
                    let case = Case {
                        dims,
                        around,
                        share,
                        stored: whole(dims, target, &mut rng),
                        factors: None,
                        target,
                    };
                    case.check(&mut rng);
                }
            }
        }
    }
}

#[test]
fn channels_in_8_bits_equal_sums_in_f64() {
    let mut rng = StdRng::seed_from_u64(32);
    for (device, dtype) in targets() {
        let target = (&device, dtype);
        for dims in [[7, 16], [131, 48], [1000, 192], [4096, 32], [16, 9008]] {
            for (around, share) in [(AROUND[1], 0.5), (AROUND[4], 0.9), (AROUND[0], 0.0)] {
                let most = 2.0 / (dims[0] as f32).sqrt();
                let (weight, _) = random_within(most, dims, DType::F32, &device, &mut rng);
                let config = QuantizationConfig::new(8);
                let case = Case {
                    dims,
                    around,
                    share,
                    stored: Stored::Int8(QuantizedWeight::new(weight, config).unwrap().into()),
                    factors: None,
                    target,
                };
                case.check(&mut rng);
            }
        }
    }
}

#[test]
fn skipped_channels_go_through_factors() {
    let mut rng = StdRng::seed_from_u64(33);
    for (device, dtype) in targets() {
        let target = (&device, dtype);
        for (dims, rank) in [
            ([7, 10], 1),
            ([1000, 34], 33),
            ([4096, 96], 8),
            ([96, 1030], 300),
        ] {
            for (around, share) in [(AROUND[0], 0.5), (AROUND[4], 0.5), (AROUND[1], 1.0)] {
                let [k, n] = dims;
                let most = 1.0 / ((k * rank) as f32).sqrt();
                let (_, down) = random_within(most, [k, rank], dtype, &device, &mut rng);
                let (_, up) = random([rank, n], dtype, &device, &mut rng);
                let case = Case {
                    dims,
                    around,
                    share,
                    stored: whole(dims, target, &mut rng),
                    factors: Some(Factors { rank, down, up }),
                    target,
                };
                case.check(&mut rng);
            }
        }
    }
}

/// A weight of which nothing is skipped.
fn unskipped(weights: Tensor<2>) -> ChannelWeight {
    let [k, _] = weights.dims();
    ChannelWeight {
        norms: Tensor::ones([k], (&weights.device(), DType::F32)),
        weights: weights.into(),
        threshold: -1.0,
        factors: None,
    }
}

#[test]
fn nothing_skipped_is_the_product_with_the_whole_weights() {
    let mut rng = StdRng::seed_from_u64(34);
    for (device, dtype) in targets() {
        for [k, n] in [[64, 32], [1001, 34], [4096, 130]] {
            let (row, _) = random([1, k], dtype, &device, &mut rng);
            let most = 2.0 / (k as f32).sqrt();
            let (weights, _) = random_within(most, [k, n], dtype, &device, &mut rng);
            let whole = gemv(
                row.clone(),
                None,
                weights.clone().transpose(),
                None,
                None,
                false,
            );
            let found = sparse_gemv(row, None, unskipped(weights), None, None, false);
            let what = format!("{k} channels, {n} outputs, {dtype:?}");
            let tolerance = 4.0 * tolerance(dtype);
            assert_close(&floats(&found), &floats(&whole), tolerance, &what);
        }
    }
}

#[test]
fn what_is_no_number_is_not_skipped_by_a_kernel() {
    let mut rng = StdRng::seed_from_u64(35);
    for (device, dtype) in targets() {
        for k in [64, 65] {
            let (_, mut row) = random([1, k], dtype, &device, &mut rng);
            row[k - 1] = f64::NAN;
            let row: Vec<f32> = row.into_iter().map(|x| x as f32).collect();
            let (weights, _) = random([k, 34], dtype, &device, &mut rng);
            let weight = ChannelWeight {
                threshold: f32::MAX,
                ..unskipped(weights)
            };
            let row = tensor(&row, [1, k], dtype, &device);
            let output = floats(&sparse_gemv(row, None, weight, None, None, false));
            assert!(output.iter().all(|x| x.is_nan()), "{dtype:?}: {output:?}");
        }
    }
}

#[test]
fn several_rows_are_refused_by_the_kernel() {
    let mut rng = StdRng::seed_from_u64(36);
    for (device, dtype) in targets() {
        let (rows, _) = random([2, 64], dtype, &device, &mut rng);
        let (weights, _) = random([64, 32], dtype, &device, &mut rng);
        let weight = unskipped(weights);
        let run = || sparse_gemv(rows, None, weight, None, None, false);
        let refused = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        let refused = refused.downcast_ref::<String>().unwrap();
        assert!(refused.contains("expected 1 to 1, found 2"), "{refused}");
    }
}

fn norm(d: usize, (device, dtype): (&Device, DType), rng: &mut StdRng) -> RmsNorm {
    let mut norm = RmsNormConfig::new(d).with_epsilon(EPSILON).init(device);
    norm.gamma = Param::from_tensor(random([d], dtype, device, rng).0);
    norm
}

/// A layer with random weights that skips about half of the channels of random rows.
fn layer(
    [k, n]: [usize; 2],
    is_int8: bool,
    rank: usize,
    (device, dtype): (&Device, DType),
    rng: &mut StdRng,
) -> (InferenceLinear, SparseWeight) {
    let most = 2.0 / (k as f32).sqrt();
    let (weight, values) = random_within(most, [n, k], dtype, device, rng);
    let (bias, _) = random([n], dtype, device, rng);
    let norm = (values.iter().map(|w| w * w).sum::<f64>() / k as f64).sqrt();
    let factors = (rank > 0).then(|| LowRank {
        down: random_within(most, [k, rank], dtype, device, rng).0,
        up: random([rank, n], dtype, device, rng).0,
    });
    let weight = match is_int8 {
        false => SparseWeight::new(weight, norm as f32, factors),
        true => SparseWeight::int8(weight, norm as f32, factors).unwrap(),
    };
    let sparse = LinearWeight::Sparse(weight.clone());
    (InferenceLinear::with_weight(sparse, Some(bias)), weight)
}

#[test]
fn layers_of_a_row_are_the_reference_in_tensor_operations() {
    let mut rng = StdRng::seed_from_u64(37);
    // Tensor operations round on their way in half precision, and may leave the threshold on the other side.
    let targets = targets()
        .into_iter()
        .filter(|(_, dtype)| *dtype == DType::F32);
    for (device, dtype) in targets {
        assert!(SparseWeight::skips_on(&device));
        for (is_int8, rank) in [(false, 0), (true, 0), (false, 6)] {
            let (k, n) = (160, 96);
            let (layer, weight) = layer([k, n], is_int8, rank, (&device, dtype), &mut rng);
            let dense = InferenceLinear::new(weight.dequantize(), None);
            let (row, _) = random([1, k], dtype, &device, &mut rng);
            let what = format!("int8: {is_int8}, rank {rank}");
            let close = |found: &Tensor<2>, expected: &Tensor<2>, what: &str| {
                // Burn multiplies f32 matrices in TF32 on CUDA.
                assert_close(&floats(found), &floats(expected), 2e-3, what);
            };
            let bias = layer.forward(Tensor::zeros([1, k], (&device, dtype)));
            let products = weight.reference(row.clone());
            let expected = products.clone() + bias.clone();
            close(&layer.forward(row.clone()), &expected, &what);
            let apart = (products - dense.forward(row.clone())).abs().max();
            assert!(
                apart.into_scalar::<f32>() > 0.05,
                "{what}: nothing is skipped"
            );

            let (residual, _) = random([1, n], dtype, &device, &mut rng);
            let found = layer.forward_added(row.clone(), residual.clone());
            close(&found, &(expected + residual), &what);

            let norm = norm(k, (&device, dtype), &mut rng);
            let normed = quest_burn_linear::rms_norm(&norm, row.clone());
            let expected = weight.reference(normed) + bias.clone();
            let found = layer.forward_normed(row.clone(), &norm);
            close(&found, &expected, &what);
            let found = layer.forward_normed_gated(row.clone(), &norm);
            let gate = expected.clone().narrow(1, 0, n / 2);
            let gated = burn::tensor::activation::silu(gate) * expected.narrow(1, n / 2, n / 2);
            close(&found, &gated, &what);

            // Several rows, as of a prompt, read all channels.
            for m in [2, 11] {
                let (rows, _) = random([m, k], dtype, &device, &mut rng);
                let expected = dense.forward(rows.clone()) + bias.clone();
                close(
                    &layer.forward(rows),
                    &expected,
                    &format!("{what}, {m} rows"),
                );
            }
        }
    }
}
