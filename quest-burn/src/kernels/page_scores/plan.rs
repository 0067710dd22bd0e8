//! How a launch scores pages.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::{
    super::{
        launch::{empty, multiprocessors},
        row::RowLayout,
    },
    Scoring,
};
use crate::{
    FixedPoint,
    digest::DigestKind,
    pages::{GroupRule, PageScoring},
};

/// Units of a cube.
const UNITS: usize = 128;
/// Digests that a run of lanes has in flight.
const PAGES_IN_FLIGHT: usize = 4;

/// How a cube scores pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ScoreShape {
    /// Query heads of a KV head, and whether they share their pages.
    pub group: usize,
    pub shared: bool,
    /// How the scores of query heads that share pages become one.
    pub rule: GroupRule,
    /// What deviations are multiplied by.
    pub deviations: FixedPoint,
    /// Units that share a row, and the vectors of each.
    pub lanes: usize,
    pub vectors: usize,
    /// Channels of a vector.
    pub width: usize,
    /// Digests that a run of lanes has in flight.
    pub in_flight: usize,
    pub units: usize,
    pub page_size: usize,
    /// Pages whose sums one reduction makes; none where each sum is reduced by itself.
    pub together: usize,
    /// Vectors of a digest, where whole ones are read.
    pub digest: usize,
}

impl ScoreShape {
    /// The shape for cubes of `units`; each run of lanes has at most `in_flight` digests in
    /// flight.
    fn new(
        layout: &RowLayout,
        group: usize,
        rule: PageScoring,
        deviations: FixedPoint,
        page_size: usize,
        units: usize,
        in_flight: usize,
    ) -> Self {
        // Registers hold the digests in flight.
        let in_flight = (in_flight / layout.vectors).max(1);
        let scatters = group.is_power_of_two() && group <= layout.lanes;
        let together = if scatters {
            in_flight.min(layout.lanes / group)
        } else {
            0
        };
        Self {
            group,
            shared: rule.is_shared(),
            rule: rule.group_rule,
            deviations,
            lanes: layout.lanes,
            vectors: layout.vectors,
            width: layout.width,
            in_flight,
            units,
            page_size,
            together,
            digest: 0,
        }
    }

    /// Pages that a cube scores at a time.
    pub(super) fn pages(&self) -> usize {
        self.units / self.lanes * self.in_flight
    }
}

/// What a launch computes, and how: a cube for as many pages as it scores at a time, KV head and
/// sequence.
pub(super) struct Plan {
    pub shape: ScoreShape,
    pub cubes: CubeCount,
    pub dim: CubeDim,
    /// `[batch, heads, n_scores]`
    pub scores: CubeTensor,
}

impl Plan {
    /// For digests the rows of which are read as `layout` says.
    pub(super) fn new(
        query: &CubeTensor,
        layout: &RowLayout,
        n_kv_heads: usize,
        digest: DigestKind,
        scoring: Scoring,
    ) -> Self {
        let Scoring {
            page_size,
            rule,
            n_scores,
        } = scoring;
        let deviations = digest.deviations_or(rule.deviations);
        let [batch, n_heads, _] = query.meta.shape().dims::<3>();
        let max_units = query.client.properties().hardware.max_units_per_cube as usize;
        let units = UNITS.min(max_units);
        let group = n_heads / n_kv_heads;
        // A small problem needs every multiprocessor more than it needs long queues.
        let cubes = |in_flight| {
            let shape =
                ScoreShape::new(layout, group, rule, deviations, page_size, units, in_flight);
            (shape, n_scores.div_ceil(shape.pages()))
        };
        let enough = 2 * multiprocessors(query);
        let mut in_flight = PAGES_IN_FLIGHT;
        while in_flight > 1 && cubes(in_flight).1 * batch * n_kv_heads < enough {
            in_flight /= 2;
        }
        let (shape, n_cubes) = cubes(in_flight);
        let heads = rule.lists(n_heads, n_kv_heads);
        Self {
            shape,
            cubes: CubeCount::Static(n_cubes as u32, n_kv_heads as u32, batch as u32),
            dim: CubeDim::new_1d(units as u32),
            scores: empty(query, [batch, heads, n_scores], DType::F32),
        }
    }
}
