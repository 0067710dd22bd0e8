//! Minimum and maximum of each channel ([Quest](https://arxiv.org/abs/2406.10774), section 3.3).

#[cfg(feature = "cube")]
mod kernel;
#[cfg(feature = "flex")]
mod native;

use burn::tensor::Tensor;

use super::Digest;

pub(crate) struct MinMax;

impl Digest for MinMax {
    const ROWS: usize = 2;
    const IS_BOUND: bool = true;

    fn fold(keys: Tensor<4>) -> Tensor<4> {
        // Row by row: a reduction would be tuned anew for every shape.
        let [_, _, n, _] = keys.dims();
        let row = |i: usize| keys.clone().slice_dim(2, i..i + 1);
        let (low, high) = (1..n).fold((row(0), row(0)), |(low, high), i| {
            (low.min_pair(row(i)), high.max_pair(row(i)))
        });
        Tensor::cat(vec![low, high], 2)
    }

    /// `sum_i max(q_i min_i, q_i max_i)` equals `min(q, 0) . min + max(q, 0) . max`: one product with
    /// the two rows laid end to end.
    fn scores(query: Tensor<3>, digests: Tensor<4>, _deviations: f32) -> Tensor<3> {
        let [heads, n_pages, rows, channels] = digests.dims();
        let query = Tensor::cat(vec![query.clone().clamp_max(0.0), query.clamp_min(0.0)], 2);
        let digests: Tensor<3> = digests.reshape([heads, n_pages, rows * channels]);
        query.matmul(digests.swap_dims(1, 2))
    }
}
