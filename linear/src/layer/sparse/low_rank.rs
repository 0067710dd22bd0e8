//! A matrix of low rank near the weights of a layer.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Products with the weights and their transpose: each brings the range nearer to that of the largest singular
/// values.
const ITERATIONS: usize = 4;

/// Two factors whose product is near the weights of a linear layer.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// From the input channels, `[d_input, rank]`.
    pub down: Tensor<2>,
    /// To the output channels, `[rank, d_output]`.
    pub up: Tensor<2>,
}

impl LowRank {
    /// The factors by which weights are near a matrix of such a rank, in f32, and how far they are from it: the
    /// norm of the difference over that of the weights.
    ///
    /// They are found by a randomised range finder with power iterations, always from the same numbers. What it
    /// finds is no farther away than the truncated singular value decomposition but for a few per cent.
    ///
    /// # Shapes
    ///
    /// - weight: `[d_output, d_input]`
    ///
    /// # Panics
    ///
    /// When the rank is zero or larger than one of the sizes.
    pub fn of(weight: &Tensor<2>, rank: usize) -> (Self, f32) {
        let [d_output, d_input] = weight.dims();
        assert!(
            (1..=d_output.min(d_input)).contains(&rank),
            "rank of weights of {d_output} times {d_input}: expected from 1 to the smaller one, found {rank}"
        );
        let weight = weight.clone().cast(DType::F32);
        let transposed = weight.clone().transpose();
        let noise = noise(d_input, rank, &weight.device());
        let mut range = orthonormal(weight.clone().matmul(noise));
        for _ in 0..ITERATIONS {
            let inputs = orthonormal(transposed.clone().matmul(range));
            range = orthonormal(weight.clone().matmul(inputs));
        }
        let down = transposed.matmul(range.clone());
        let up = range.transpose();
        let rest = weight.clone() - up.clone().transpose().matmul(down.clone().transpose());
        let size = |x: Tensor<2>| x.square().sum().sqrt().into_scalar::<f32>();
        let error = size(rest) / size(weight).max(f32::MIN_POSITIVE);
        (Self { down, up }, error)
    }

    /// The rank.
    pub fn rank(&self) -> usize {
        self.down.dims()[1]
    }

    /// What it makes of rows: `[n, d_input] -> [n, d_output]`.
    pub(super) fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        rows.matmul(self.down.clone()).matmul(self.up.clone())
    }
}

/// Numbers without a pattern, from -1 to 1.
fn noise(rows: usize, columns: usize, device: &Device) -> Tensor<2> {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    let numbers = (0..rows * columns).map(|_| {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        (bits >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    let numbers = TensorData::new(numbers.collect::<Vec<_>>(), [rows, columns]);
    Tensor::from_data(numbers, (device, DType::F32))
}

/// Columns of length one and at right angles that span what the given ones span; zero where there are fewer.
///
/// On the host and in f64: there are few columns, and later ones lose what earlier ones have.
fn orthonormal(columns: Tensor<2>) -> Tensor<2> {
    let [rows, n] = columns.dims();
    let device = columns.device();
    let values = columns.transpose().into_data_as::<f32>();
    let values = values.try_to_vec::<f32>().expect("read as f32");
    let mut done = Vec::<Vec<f64>>::new();
    for column in values.chunks_exact(rows) {
        let mut column: Vec<f64> = column.iter().map(|&x| f64::from(x)).collect();
        let size = length(&column);
        // The second time takes away what rounding left of the first.
        for _ in 0..2 {
            for other in &done {
                let share = dot(&column, other);
                for (x, other) in column.iter_mut().zip(other) {
                    *x -= share * other;
                }
            }
        }
        let left = length(&column);
        let scale = if left > 1e-7 * size { 1.0 / left } else { 0.0 };
        column.iter_mut().for_each(|x| *x *= scale);
        done.push(column);
    }
    let values = done.into_iter().flatten().map(|x| x as f32).collect();
    let values = TensorData::new::<f32, _>(values, [n, rows]);
    Tensor::<2>::from_data(values, (&device, DType::F32)).transpose()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the given singular values.
    fn matrix(values: &[f32], rows: usize, columns: usize) -> Tensor<2> {
        let device = Device::default();
        let n = values.len();
        let left = orthonormal(noise(rows, n, &device));
        let right = orthonormal(noise(columns, n, &device)).transpose();
        let values = Tensor::<1>::from_data(values, &device).unsqueeze::<2>();
        (left * values).matmul(right)
    }

    #[test]
    fn a_matrix_of_the_rank_is_found_to_rounding() {
        let weight = matrix(&[5.0, 3.0, 1.0, 0.5], 48, 40);
        for rank in [4, 7] {
            let (low_rank, error) = LowRank::of(&weight, rank);
            assert_eq!((low_rank.rank(), low_rank.up.dims()), (rank, [rank, 48]));
            assert!(error < 1e-5, "rank {rank}: {error}");
        }
    }

    #[test]
    fn the_error_is_that_of_the_best_matrix_of_the_rank_but_for_little() {
        let values: Vec<f32> = (0..32).map(|i| 0.9f32.powi(i)).collect();
        let weight = matrix(&values, 64, 32);
        for rank in [1, 4, 16, 32] {
            let squares = |values: &[f32]| values.iter().map(|x| x * x).sum::<f32>();
            let best = (squares(&values[rank..]) / squares(&values)).sqrt();
            let (_, error) = LowRank::of(&weight, rank);
            assert!(
                (best - 1e-4..=1.05 * best + 1e-5).contains(&error),
                "rank {rank}: best {best}, found {error}"
            );
        }
    }

    #[test]
    fn weights_of_zeros_are_of_any_rank() {
        let weight = Tensor::<2>::zeros([4, 6], &Device::default());
        let (low_rank, error) = LowRank::of(&weight, 2);
        let row = Tensor::ones([1, 6], &Device::default());
        assert_eq!(error, 0.0);
        let output = low_rank.forward(row).into_data();
        output.assert_eq(&TensorData::zeros::<f32, _>([1, 4]), true);
    }

    #[test]
    #[should_panic(expected = "expected from 1 to the smaller one, found 5")]
    fn a_rank_beyond_the_sizes_is_refused() {
        LowRank::of(&Tensor::zeros([4, 6], &Device::default()), 5);
    }
}
