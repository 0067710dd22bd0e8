//! Page scores by matrix instructions, for the query heads of a group at once.
//!
//! The LHS has the queries of a group in its upper 8 rows, what a kind of digest multiplies them to
//! first; the RHS has 8 pages. Four lanes share a page's row. Which channels of it a lane loads is the
//! storage's business ([`mod@load`]): sums may take channels in any order, as long as both sides have the
//! same one.

mod kernel;
mod load;

use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use self::{
    kernel::matrix_kernel,
    load::{FULL_WIDTH, INT8_WIDTH, MatrixLoad},
};
use super::{
    super::{
        launch::{address_type, empty, multiprocessors},
        matrix_instruction::{COLUMNS, PACKED, PLANE, is_there},
        operands::Places,
    },
    Scoring,
    kernel::Stored,
    load::{DigestsArgLaunch, Full, Int8},
};
use crate::{
    FixedPoint,
    cache::CHANNELS_PER_SCALE,
    digest::{Digest, SCALAR_CHANNELS, with_digest},
    pages::GroupRule,
};

/// Planes of a cube.
const PLANES: usize = 4;
/// Bytes that a lane has in flight.
const IN_FLIGHT: usize = 128;
/// Lanes that share a row of a digest.
const LANES: usize = 4;
/// Channels of a load, and of a vector of queries.
const WIDTH: usize = 8;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MatrixScores {
    /// Query heads of a KV head, and whether they share their pages.
    group: usize,
    shared: bool,
    /// How the scores of query heads that share pages become one.
    rule: GroupRule,
    /// What deviations are multiplied by.
    deviations: FixedPoint,
    head_dim: usize,
    page_size: usize,
    /// Vectors of a page's digest.
    digest: usize,
    /// Runs of 8 pages that a plane has in flight.
    in_flight: usize,
}

impl MatrixScores {
    /// The shape for these queries and digests, where there is one. Channels are multiplied in the
    /// dtype of the query, in which a square may not have room. Bytes become numbers by the bits of
    /// f16, and a scale has to be for all channels of a step.
    pub(super) fn new(query: &CubeTensor, stored: &Stored, scoring: Scoring) -> Option<Self> {
        let [_, n_heads, head_dim] = query.meta.shape().dims::<3>();
        let group = n_heads / stored.n_kv_heads;
        let squared = with_digest!(stored.kind, D => <D as Digest>::SQUARED);
        let (dtypes, most) = match stored.scales {
            Some(_) => (query.dtype == DType::F16, LANES * CHANNELS_PER_SCALE),
            None => (
                query.dtype == stored.rows.dtype,
                2 * LANES * CHANNELS_PER_SCALE,
            ),
        };
        let takes = !squared
            && dtypes
            && is_there(query.client.properties(), query.dtype, PLANES * PLANE)
            && (2..=COLUMNS).contains(&group)
            && head_dim.is_multiple_of(LANES * WIDTH)
            && head_dim <= most;
        takes.then(|| {
            let layout = stored.kind.layout();
            let behind = match stored.scales {
                None if layout.scalar => SCALAR_CHANNELS,
                _ => 0,
            };
            let mut shape = Self {
                group,
                shared: scoring.rule.is_shared(),
                rule: scoring.rule.group_rule,
                deviations: stored.kind.deviations_or(scoring.rule.deviations),
                head_dim,
                page_size: scoring.page_size,
                digest: (layout.rows * head_dim + behind) / WIDTH,
                in_flight: 0,
            };
            let loads = match stored.scales {
                Some(_) => IN_FLIGHT / WIDTH,
                None => IN_FLIGHT / (2 * WIDTH),
            };
            shape.in_flight = (loads / (layout.rows * shape.vectors())).max(1);
            shape
        })
    }

    /// Loads of a lane for a row.
    fn vectors(&self) -> usize {
        self.head_dim / (LANES * WIDTH)
    }

    /// Vectors of a row.
    fn row(&self) -> usize {
        self.head_dim / WIDTH
    }

    /// Pages that a plane scores.
    fn plane_pages(&self) -> usize {
        self.in_flight * COLUMNS
    }

    /// Pages that a cube scores.
    fn pages(&self) -> usize {
        PLANES * self.plane_pages()
    }
}

/// Scores of each page, `[batch, heads, n_scores]`.
pub(super) fn launch(
    query: CubeTensor,
    stored: Stored,
    places: Places<CubeBackend>,
    n_scores: usize,
    shape: MatrixScores,
) -> CubeTensor {
    if stored.scales.is_some() {
        launch_by::<Int8>(query, stored, places, n_scores, shape, INT8_WIDTH)
    } else {
        launch_by::<Full>(query, stored, places, n_scores, shape, FULL_WIDTH)
    }
}

fn launch_by<L: MatrixLoad>(
    query: CubeTensor,
    stored: Stored,
    places: Places<CubeBackend>,
    n_scores: usize,
    shape: MatrixScores,
    width: usize,
) -> CubeTensor {
    let Stored {
        kind,
        n_kv_heads,
        rows,
        scales,
        ..
    } = stored;
    let [batch, n_heads, _] = query.meta.shape().dims::<3>();
    let heads = if shape.shared { n_kv_heads } else { n_heads };
    let output = empty(&query, [batch, heads, n_scores], DType::F32);
    // A small problem needs every multiprocessor more than it needs long queues.
    let mut shape = shape;
    let cubes = |shape: &MatrixScores| n_scores.div_ceil(shape.pages());
    while shape.in_flight > 1 && cubes(&shape) * batch * n_kv_heads < 2 * multiprocessors(&query) {
        shape.in_flight /= 2;
    }
    let client = query.client.clone();
    let address = address_type(&[&rows, &output]);
    let dtype = dtype_to_storage_type(query.dtype);
    let digest_type = dtype_to_storage_type(rows.dtype);
    let digests = DigestsArgLaunch::new(
        rows.into_tensor_arg(),
        scales.map(CubeTensor::into_tensor_arg).into(),
    );
    // SAFETY: pages are masked by the lengths and clamped to the page table and the pool; the
    // shapes were checked before the operation was registered.
    with_digest!(kind, D => unsafe {
        matrix_kernel::launch_unchecked::<D, L>(
            &client,
            CubeCount::Static(cubes(&shape) as u32, n_kv_heads as u32, batch as u32),
            CubeDim::new_1d((PLANES * PLANE) as u32),
            address,
            WIDTH,
            width,
            PACKED,
            query.into_tensor_arg(),
            digests,
            places.into_arg(),
            output.clone().into_tensor_arg(),
            shape,
            dtype,
            digest_type,
        );
    });
    output
}
