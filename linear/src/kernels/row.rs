//! How the units of a plane share one row of `head_dim` channels.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Bytes of the widest load of one unit.
const LOAD_BYTES: usize = 16;
/// Widest vector where the runtime does not say that any width will do: WGSL has no wider ones,
/// and SPIR-V cannot sum them.
const PORTABLE_VECTOR: usize = 4;

/// A row is read by `lanes` neighbouring units, each of which takes `vectors` vectors of `width`
/// channels, `lanes` vectors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    pub width: usize,
    pub lanes: usize,
    pub vectors: usize,
    /// Units of a plane that run in step, at least.
    pub plane: usize,
}

impl RowLayout {
    /// The layout for rows like those of `tensor`, whose last dimension is the head dim.
    pub fn of(tensor: &CubeTensor) -> Self {
        let shape = tensor.meta.shape();
        Self::with_head_dim(tensor, shape[shape.num_dims() - 1])
    }

    /// The layout for rows of `head_dim` channels of a tensor, behind which others may follow.
    pub fn with_head_dim(tensor: &CubeTensor, head_dim: usize) -> Self {
        let hardware = &tensor.client.properties().hardware;
        let any_width = hardware.max_vector_size == VectorSize::MAX;
        Self::new(
            head_dim,
            tensor.dtype,
            hardware.plane_size_min as usize,
            any_width,
        )
    }

    fn new(head_dim: usize, dtype: DType, plane: usize, any_width: bool) -> Self {
        let widest = LOAD_BYTES / dtype.size();
        let widest = if any_width {
            widest
        } else {
            widest.min(PORTABLE_VECTOR)
        };
        let width = widest.min(power_of_two_factor(head_dim));
        Self::of_vectors(head_dim / width, width, plane)
    }

    /// The layout for rows of `row` vectors.
    pub fn of_vectors(row: usize, width: usize, plane: usize) -> Self {
        let lanes = plane.min(power_of_two_factor(row));
        Self {
            width,
            lanes,
            vectors: row / lanes,
            plane,
        }
    }

    /// Vectors of a row.
    pub fn row_vectors(&self) -> usize {
        self.lanes * self.vectors
    }
}

/// The largest power of two that divides `n`.
fn power_of_two_factor(n: usize) -> usize {
    1 << n.trailing_zeros()
}

/// `sum + a . b`, as one chain of fused multiply-adds: a sum across a vector of products would take
/// nearly as many additions again.
#[cube]
pub fn dot<N: Size>(
    a: Vector<f32, N>,
    b: Vector<f32, N>,
    sum: f32,
    #[comptime] width: usize,
) -> f32 {
    let mut sum = sum;
    #[unroll]
    for i in 0..width {
        sum = fma(a.extract(i), b.extract(i), sum);
    }
    sum
}

/// Sum over an aligned run of `lanes` units; each of them gets it.
#[cube]
pub fn lanes_sum(value: f32, #[comptime] lanes: usize) -> f32 {
    let mut sum = value;
    let steps = comptime!(lanes.ilog2());
    #[unroll]
    for step in 0..steps {
        sum += plane_shuffle_xor(sum, comptime!(1u32 << step));
    }
    sum
}

/// Sum over the units of a cube; each of them gets it. Every unit must reach it.
#[cube]
pub fn cube_sum(value: f32, #[comptime] units: usize, #[comptime] plane: usize) -> f32 {
    let planes = comptime!(units / plane);
    let mut sums = Shared::<[f32]>::new_slice(planes);
    let sum = lanes_sum(value, plane);
    if UNIT_POS as usize % plane == 0 {
        sums[UNIT_POS as usize / plane] = sum;
    }
    sync_cube();
    let mut total = f32::new(0.0);
    #[unroll]
    for other in 0..planes {
        total += sums[other];
    }
    total
}

/// Sums of `n` values over an aligned run of `lanes` units, `n` dividing `lanes`: the `i`-th of `n`
/// equal parts of the run gets the sum of the `i`-th values.
///
/// Takes `n - 1` shuffles and those of one sum within a part, where summing the values one by one
/// takes `n` times as many as one sum.
#[cube]
pub fn lanes_scatter_sum(
    values: &mut Array<f32>,
    #[comptime] n: usize,
    #[comptime] lanes: usize,
) -> f32 {
    let lane = UNIT_POS % comptime!(lanes as u32);
    let steps = comptime!(n.ilog2());
    #[unroll]
    for step in 0..steps {
        let half = comptime!(n >> (step + 1));
        let mask = comptime!((lanes >> (step + 1)) as u32);
        let upper = (lane & mask) != 0u32;
        #[unroll]
        for i in 0..half {
            let keep = select(upper, values[i + half], values[i]);
            let give = select(upper, values[i], values[i + half]);
            values[i] = keep + plane_shuffle_xor(give, mask);
        }
    }
    lanes_sum(values[0], comptime!(lanes / n))
}

/// Maximum over an aligned run of `lanes` units; each of them gets it.
#[cube]
pub fn lanes_max(value: f32, #[comptime] lanes: usize) -> f32 {
    let mut largest = value;
    let steps = comptime!(lanes.ilog2());
    #[unroll]
    for step in 0..steps {
        largest = max(largest, plane_shuffle_xor(largest, comptime!(1u32 << step)));
    }
    largest
}

/// Inclusive prefix sum over an aligned run of `plane` units.
#[cube]
fn plane_prefix_sum(value: u32, #[comptime] plane: usize) -> u32 {
    let mut sum = value;
    let steps = comptime!(plane.ilog2());
    let lane = UNIT_POS % comptime!(plane as u32);
    #[unroll]
    for step in 0..steps {
        let below = plane_shuffle_up(sum, comptime!(1u32 << step));
        sum += select(lane >= comptime!(1u32 << step), below, 0u32);
    }
    sum
}

/// Exclusive prefix sum over the units of a cube.
///
/// Every unit must reach it. `plane_sums` holds one entry per plane and must not be in use.
#[cube]
pub fn cube_prefix_sum(
    value: u32,
    plane_sums: &mut Shared<[u32]>,
    #[comptime] units: usize,
    #[comptime] plane: usize,
) -> u32 {
    let inclusive = plane_prefix_sum(value, plane);
    let unit = UNIT_POS as usize;
    let own = unit / plane;
    if unit % plane == plane - 1 {
        plane_sums[own] = inclusive;
    }
    sync_cube();
    let mut sum = inclusive - value;
    let n_planes = comptime!(units / plane);
    if comptime!(n_planes <= 32) {
        #[unroll]
        for other in 0..n_planes {
            sum += select(other < own, plane_sums[other], 0u32);
        }
    } else {
        for other in 0..own {
            sum += plane_sums[other];
        }
    }
    sync_cube();
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(head_dim: usize, dtype: DType, plane: usize, any_width: bool) -> [usize; 3] {
        let layout = RowLayout::new(head_dim, dtype, plane, any_width);
        assert_eq!(layout.width * layout.lanes * layout.vectors, head_dim);
        [layout.width, layout.lanes, layout.vectors]
    }

    #[test]
    fn units_load_16_bytes_where_the_device_can() {
        assert_eq!(layout(128, DType::F16, 32, true), [8, 16, 1]);
        assert_eq!(layout(128, DType::F32, 32, true), [4, 32, 1]);
        assert_eq!(layout(128, DType::F16, 32, false), [4, 32, 1]);
        assert_eq!(layout(256, DType::F32, 4, false), [4, 4, 16]);
    }

    #[test]
    fn a_row_of_any_length_is_covered() {
        assert_eq!(layout(8, DType::F16, 32, true), [8, 1, 1]);
        assert_eq!(layout(80, DType::BF16, 32, true), [8, 2, 5]);
        assert_eq!(layout(6, DType::F32, 32, true), [2, 1, 3]);
        assert_eq!(layout(7, DType::F32, 32, true), [1, 1, 7]);
    }
}
