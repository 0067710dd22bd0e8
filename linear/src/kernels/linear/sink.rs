//! What becomes of the sums of a batch's kernel: outputs, or segments of them that a launch of its own adds up.

use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{
    super::launch::address_type,
    Epilogue,
    args::{OutputArg, output_arg},
    epilogue::{addend, write},
};

/// Vectors of a row to multiples of which segments are cut.
pub(super) const STEP: usize = 8;
/// Units of a cube that adds up segments.
const MERGE_UNITS: usize = 256;

/// What becomes of the sums of a cube.
#[cube]
pub(super) trait Sink: Send + Sync + 'static {
    type Output<F: Float>: LaunchArg + CubeType;

    /// Vectors of each row, of so many, that the cube takes.
    fn range(vectors: usize) -> (usize, usize);

    /// Takes an output channel of a row: its sum, and that of its gated counterpart.
    fn put<F: Float>(
        out: &mut Self::Output<F>,
        sum: f32,
        up: f32,
        row: usize,
        channel: usize,
        rows: usize,
        #[comptime] epilogue: Epilogue,
    );
}

/// Sums are whole: the epilogue follows.
pub(super) struct Whole;

#[cube]
impl Sink for Whole {
    type Output<F: Float> = OutputArg<F>;

    fn range(vectors: usize) -> (usize, usize) {
        (0usize.runtime(), vectors)
    }

    fn put<F: Float>(
        out: &mut OutputArg<F>,
        sum: f32,
        up: f32,
        row: usize,
        channel: usize,
        _rows: usize,
        #[comptime] epilogue: Epilogue,
    ) {
        let columns = out.output.shape(1);
        let added = addend::<F>(&out.residual, row, channel, columns, epilogue);
        write::<F>(sum, up, added, row, channel, out, epilogue);
    }
}

/// Sums are over a segment of the channels, one of as many as there are cubes along y; they are kept,
/// `[segments, rows, weight rows]`.
pub(super) struct Segment;

#[cube]
impl Sink for Segment {
    type Output<F: Float> = OwnedTensor<f32>;

    fn range(vectors: usize) -> (usize, usize) {
        let segment = CUBE_POS_Y as usize;
        let n_segments = CUBE_COUNT_Y as usize;
        let steps = vectors / STEP;
        let first = segment * steps / n_segments * STEP;
        let end = (segment + 1) * steps / n_segments * STEP;
        (first, end)
    }

    fn put<F: Float>(
        out: &mut OwnedTensor<f32>,
        sum: f32,
        _up: f32,
        row: usize,
        channel: usize,
        rows: usize,
        #[comptime] _epilogue: Epilogue,
    ) {
        let n = out.shape(2);
        if channel < n {
            out[(CUBE_POS_Y as usize * rows + row) * n + channel] = sum;
        }
    }
}

/// Adds up the segments of every output.
#[cube(launch_unchecked, address_type = "dynamic")]
fn merge_segments_kernel<F: Float>(
    segments: &Tensor<f32>,
    output: &mut OutputArg<F>,
    #[comptime] n_segments: usize,
    #[comptime] epilogue: Epilogue,
    #[define(F)] _dtype: ElemType,
) {
    let m = output.output.shape(0);
    let columns = output.output.shape(1);
    let i = ABSOLUTE_POS;
    if i < m * columns {
        let (row, channel) = (i / columns, i % columns);
        let n = segments.shape(2);
        let mut sum = f32::new(0.0);
        let mut up = f32::new(0.0);
        #[unroll]
        for segment in 0..n_segments {
            let at = (segment * m + row) * n + channel;
            sum += segments[at];
            if comptime!(epilogue.gated) {
                up += segments[at + columns];
            }
        }
        let added = addend::<F>(&output.residual, row, channel, columns, epilogue);
        write::<F>(sum, up, added, row, channel, output, epilogue);
    }
}

/// Adds up `segments`, `[segments, rows, weight rows]`, into the output.
pub(super) fn launch_merge(
    segments: CubeTensor,
    bias: CubeTensor,
    residual: CubeTensor,
    output: &CubeTensor,
    epilogue: Epilogue,
) {
    let n_segments = segments.meta.shape()[0];
    let elements = output.meta.shape().num_elements();
    let client = output.client.clone();
    let address = address_type(&[&segments, output]);
    // SAFETY: units past the last output are masked.
    unsafe {
        merge_segments_kernel::launch_unchecked(
            &client,
            CubeCount::Static(elements.div_ceil(MERGE_UNITS) as u32, 1, 1),
            CubeDim::new_1d(MERGE_UNITS as u32),
            address,
            segments.into_tensor_arg(),
            output_arg(bias, residual, output),
            n_segments,
            epilogue,
            dtype_to_storage_type(output.dtype),
        );
    }
}
