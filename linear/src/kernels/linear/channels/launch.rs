use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::{
        super::{
            launch::{address_type, empty, multiprocessors},
            operands::{ChannelChoice, Correction, Inputs, Weights},
        },
        Packing,
        args::ActivationsArgLaunch,
        shape::vector_width,
        sink::launch_merge,
    },
    kernel::channels_kernel,
    load::{ChannelLoad, Whole, Words},
    shape::{ChannelShape, Grid, Sizes, Taken},
};

/// A threshold that is below every score.
const BELOW_ALL: f32 = -1.0;

/// A row of a linear layer, and the norm that comes before it.
#[derive(Clone)]
struct Row {
    /// `[parts, d_input]`: the row is the sum of its parts.
    rows: CubeTensor,
    /// Weight of the norm; a placeholder where there is none.
    gamma: CubeTensor,
    epsilon: f32,
    normed: bool,
    parts: usize,
    d_input: usize,
}

impl Row {
    /// Channels of a vector, of which there are norms in f32 as well.
    fn width(&self) -> usize {
        let hardware = &self.rows.client.properties().hardware;
        vector_width(self.d_input, DType::F32, hardware)
    }
}

/// Weights by input channels.
struct Stored {
    words: CubeTensor,
    /// Where they are in words.
    scales: Option<CubeTensor>,
    packing: Packing,
    /// Outputs.
    n: usize,
}

impl Stored {
    fn whole(weights: CubeTensor) -> Self {
        Self {
            n: weights.meta.shape()[1],
            words: into_contiguous(weights),
            scales: None,
            packing: Packing::WHOLE,
        }
    }

    fn of(weights: Weights<CubeBackend>) -> Self {
        match weights {
            Weights::Full(weights) => Self::whole(weights),
            Weights::Groups {
                words,
                scales,
                packing,
                ..
            } => Self {
                n: words.meta.shape()[1] * packing.per_word(),
                words: into_contiguous(words),
                scales: Some(into_contiguous(scales)),
                packing,
            },
            Weights::Blocks { .. } => {
                unreachable!("weights were checked before the operation was registered")
            }
        }
    }

    /// Elements of a load, and outputs of one.
    fn load(&self) -> [usize; 2] {
        if self.packing.is_whole() {
            let hardware = &self.words.client.properties().hardware;
            [vector_width(self.n, self.words.dtype, hardware); 2]
        } else {
            [self.packing.words(), self.packing.per_load()]
        }
    }
}

/// Products of a row with the weights of some channels.
struct Products {
    row: Row,
    /// Of the channels; a placeholder where all are taken.
    norms: CubeTensor,
    threshold: f32,
    weights: Stored,
    shape: ChannelShape,
    grid: Grid,
}

impl Products {
    fn new(row: Row, norms: CubeTensor, threshold: f32, weights: Stored, taken: Taken) -> Self {
        let width = row.width();
        let [load, per_load] = weights.load();
        let sizes = Sizes {
            vectors: row.d_input / width,
            width,
            outputs: weights.n,
            load,
            per_load,
        };
        let hardware = &row.rows.client.properties().hardware;
        let (shape, grid) = ChannelShape::new(hardware, multiprocessors(&row.rows), sizes, taken);
        Self {
            shape: ChannelShape {
                normed: row.normed,
                parts: row.parts,
                ..shape
            },
            row,
            norms,
            threshold,
            grid,
            weights,
        }
    }

    /// Writes the sums of each segment, `[segments, 1, d_output]`, from a segment on.
    fn launch(self, sums: &CubeTensor, first_segment: usize) {
        match &self.weights.scales {
            None => self.launch_form::<Whole>(sums, first_segment),
            Some(_) => self.launch_form::<Words>(sums, first_segment),
        }
    }

    fn launch_form<L: ChannelLoad>(self, sums: &CubeTensor, first_segment: usize) {
        let Self {
            row,
            norms,
            threshold,
            weights,
            shape,
            grid,
        } = self;
        let client = sums.client.clone();
        let address = address_type(&[&weights.words, &row.rows, sums]);
        let dtype = dtype_to_storage_type(row.rows.dtype);
        let word_type = dtype_to_storage_type(weights.words.dtype);
        let scales = weights.scales.unwrap_or_else(|| norms.clone());
        // SAFETY: channels of the list are below those of the row, and loads and outputs are masked by their
        // numbers; the shapes were checked before the operation was registered.
        unsafe {
            channels_kernel::launch_unchecked::<L>(
                &client,
                CubeCount::Static(grid.stripes as u32, grid.segments as u32, 1),
                CubeDim::new_1d(shape.units as u32),
                address,
                shape.width,
                shape.load,
                ActivationsArgLaunch::new(
                    row.rows.into_tensor_arg(),
                    row.gamma.into_tensor_arg(),
                    row.epsilon,
                ),
                norms.into_tensor_arg(),
                weights.words.into_tensor_arg(),
                scales.into_tensor_arg(),
                sums.clone().into_tensor_arg(),
                threshold,
                row.d_input / shape.width,
                first_segment,
                weights.packing,
                shape,
                dtype,
                word_type,
            );
        }
    }
}

/// Products of a row with the channels that matter to it, and what goes before and follows. Segments of the
/// channels are added up by a launch of their own, which has the epilogue.
pub(crate) fn sparse_gemv(
    inputs: Inputs<CubeBackend>,
    weights: Weights<CubeBackend>,
    choice: ChannelChoice<CubeBackend>,
) -> CubeTensor {
    let rows = into_contiguous(inputs.rows);
    let [_, d_input] = rows.meta.shape().dims::<2>();
    let row = Row {
        gamma: into_contiguous(inputs.gamma),
        rows: rows.clone(),
        epsilon: inputs.epsilon,
        normed: inputs.normed,
        parts: 1,
        d_input,
    };
    let (norms, threshold) = (into_contiguous(choice.norms), choice.threshold);
    let weights = Stored::of(weights);
    let n = weights.n;
    let correction = match choice.correction {
        Correction::None => None,
        Correction::Factors { down, up } => {
            let inner = through_factor(row.clone(), norms.clone(), threshold, down);
            let placeholder = inner.rows.clone();
            let up = Stored::whole(up);
            Some(Products::new(inner, placeholder, BELOW_ALL, up, Taken::All))
        }
    };
    let products = Products::new(row, norms, threshold, weights, Taken::Active);

    let segments = products.grid.segments;
    let more = correction.as_ref().map_or(0, |up| up.grid.segments);
    let sums = empty(&rows, [segments + more, 1, n], DType::F32);
    products.launch(&sums, 0);
    if let Some(up) = correction {
        up.launch(&sums, segments);
    }
    let columns = n / inputs.epilogue.per_output();
    let output = empty(&rows, [1, columns], rows.dtype);
    launch_merge(sums, inputs.bias, inputs.residual, &output, inputs.epilogue);
    output
}

/// What the first factor makes of the skipped channels, in as many parts as there are segments.
fn through_factor(row: Row, norms: CubeTensor, threshold: f32, down: CubeTensor) -> Row {
    let down = Stored::whole(down);
    let rank = down.n;
    let products = Products::new(row, norms, threshold, down, Taken::Skipped);
    let parts = products.grid.segments;
    let sums = empty(&products.row.rows, [parts, 1, rank], DType::F32);
    products.launch(&sums, 0);
    Row {
        gamma: sums.clone(),
        rows: sums,
        epsilon: 0.0,
        normed: false,
        parts,
        d_input: rank,
    }
}
