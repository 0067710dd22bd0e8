//! The softmax of a tile's scores in shared memory.

use cubecl::prelude::*;

use super::{
    super::super::row::{lanes_max, lanes_sum},
    plan::{SOFTMAX_LANES, UnitsShape},
};

/// What a unit keeps of the token whose softmax it shares; every unit of the token knows the highest
/// score, and the total of its own keys.
#[derive(CubeType)]
pub(super) struct Running {
    highest: f32,
    total: f32,
}

#[cube]
pub(super) fn start_running(#[comptime] below_any_score: f32) -> Running {
    Running {
        highest: f32::new(below_any_score),
        total: f32::new(0.0),
    }
}

/// Turns the scores of a token into weights, and writes what the sums of earlier tiles have to be
/// multiplied by.
#[cube]
pub(super) fn weigh(
    running: &mut Running,
    scores: &mut Shared<[f32]>,
    corrections: &mut Shared<[f32]>,
    #[comptime] shape: UnitsShape,
) {
    let keys = comptime!(shape.keys / SOFTMAX_LANES);
    let token = UNIT_POS as usize / SOFTMAX_LANES;
    let lane = UNIT_POS as usize % SOFTMAX_LANES;
    let first = token * shape.score_stride() + lane;
    let mut highest = running.highest;
    #[unroll]
    for i in 0..keys {
        highest = max(highest, scores[first + i * SOFTMAX_LANES]);
    }
    let highest = lanes_max(highest, SOFTMAX_LANES);
    let correction = f32::exp(running.highest - highest);
    let mut total = running.total * correction;
    #[unroll]
    for i in 0..keys {
        let weight = f32::exp(scores[first + i * SOFTMAX_LANES] - highest);
        scores[first + i * SOFTMAX_LANES] = weight;
        total += weight;
    }
    running.highest = highest;
    running.total = total;
    if lane == 0 {
        corrections[token] = correction;
    }
}

/// Writes what the sums of all tiles have to be multiplied by.
#[cube]
pub(super) fn finish(running: &Running, corrections: &mut Shared<[f32]>) {
    let total = lanes_sum(running.total, SOFTMAX_LANES);
    if UNIT_POS as usize % SOFTMAX_LANES == 0 {
        corrections[UNIT_POS as usize / SOFTMAX_LANES] = 1.0f32 / total;
    }
}
