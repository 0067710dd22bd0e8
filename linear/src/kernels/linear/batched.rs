//! Launches for a batch's rows, which the kernels that may divide the channels among cubes have in common.

use burn::tensor::DType;
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        launch::{empty, multiprocessors},
        operands::Inputs,
        rms_norm::launch_rms_norm,
    },
    args::output_arg,
    segments::{Segmentation, Sizes},
    sink::{Segment, Sink, Whole, launch_merge},
};

/// A kernel with its weights.
pub(super) trait BatchKernel {
    /// Launches it for normed rows. What becomes of the sums is up to the target.
    fn launch<T: Target>(self, rows: CubeTensor, target: T, sizes: &Sizes);
}

/// Where the sums of a launch go: the tensors of a [`Sink`].
pub(super) trait Target {
    type Sink: Sink;

    /// The tensor that is written.
    fn written(&self) -> &CubeTensor;

    fn into_arg<F: Float>(self) -> RuntimeArg<<Self::Sink as Sink>::Output<F>>;
}

/// The output, and what the epilogue adds.
struct Outputs<'a> {
    bias: CubeTensor,
    residual: CubeTensor,
    output: &'a CubeTensor,
}

impl Target for Outputs<'_> {
    type Sink = Whole;

    fn written(&self) -> &CubeTensor {
        self.output
    }

    fn into_arg<F: Float>(self) -> RuntimeArg<<Whole as Sink>::Output<F>> {
        output_arg(self.bias, self.residual, self.output)
    }
}

/// The sums of every segment.
struct Segments<'a>(&'a CubeTensor);

impl Target for Segments<'_> {
    type Sink = Segment;

    fn written(&self) -> &CubeTensor {
        self.0
    }

    fn into_arg<F: Float>(self) -> RuntimeArg<<Segment as Sink>::Output<F>> {
        self.0.clone().into_tensor_arg()
    }
}

/// Products of a batch's rows with the kernel's `n` weight rows, and what goes before and follows.
pub(super) fn launch_batch(
    inputs: Inputs<CubeBackend>,
    n: usize,
    segmentation: &Segmentation,
    kernel: impl BatchKernel,
) -> CubeTensor {
    let Inputs {
        rows,
        gamma,
        bias,
        residual,
        normed,
        epsilon,
        epilogue,
    } = inputs;
    // Read by every cube, LHS rows are normed once.
    let rows = match normed {
        true => launch_rms_norm(rows, gamma, epsilon),
        false => into_contiguous(rows),
    };
    let [m, d_input] = rows.meta.shape().dims::<2>();
    let sizes = Sizes::new(
        rows.client.properties().hardware.max_shared_memory_size,
        multiprocessors(&rows),
        [m, n, d_input],
        epilogue,
        segmentation,
    );
    let output = empty(&rows, [m, n / epilogue.per_output()], rows.dtype);
    if sizes.segments == 1 {
        let target = Outputs {
            bias,
            residual,
            output: &output,
        };
        kernel.launch(rows, target, &sizes);
        return output;
    }
    let segments = empty(&rows, [sizes.segments, m, n], DType::F32);
    kernel.launch(rows, Segments(&segments), &sizes);
    launch_merge(segments, bias, residual, &output, epilogue);
    output
}
