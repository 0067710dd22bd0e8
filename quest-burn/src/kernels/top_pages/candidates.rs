//! How a cube walks the pages of a head.

use cubecl::prelude::*;

/// Most keys that a unit has in registers.
const CACHED: usize = 32;
/// Scores that a unit loads at a time where rows allow it.
const WIDTH: usize = 4;

/// How a cube walks its pages: each unit visits `chunks` times `items` of them. A single chunk stays in
/// registers; of several each is read again whenever the pages are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Walk {
    pub units: usize,
    pub plane: usize,
    pub items: usize,
    pub chunks: usize,
    /// Scores of a load.
    pub width: usize,
}

impl Walk {
    /// The walk of a cube of `units` over up to `n_pages` pages.
    pub fn new(units: usize, plane: usize, n_pages: usize) -> Self {
        let per_unit = n_pages.div_ceil(units).next_power_of_two();
        let width = if n_pages.is_multiple_of(WIDTH) {
            WIDTH
        } else {
            1
        };
        let per_unit = per_unit.max(width);
        // Drivers that run on the CPU, whose planes are small, are slow to compile long kernels.
        let most = if plane < 32 { CACHED / 4 } else { CACHED };
        let items = per_unit.min(most);
        Self {
            units,
            plane,
            items,
            chunks: per_unit / items,
            width,
        }
    }
}

/// The pages of one head that a cube chooses from.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Candidates {
    /// Where the scores of the head begin.
    pub offset: usize,
    /// Pages before this one are kept.
    pub sinks: usize,
    /// Pages from this one on are kept.
    pub newest: usize,
    /// Pages of this unit: `first..end`.
    pub first: usize,
    pub end: usize,
    /// Pages to choose beside those that are kept.
    pub missing: u32,
}

/// Shares the first `n_pages` pages of a head among the units of a cube, as neighbouring runs of
/// whole loads.
#[cube]
pub(super) fn candidates(
    offset: usize,
    n_pages: usize,
    k: usize,
    sinks: usize,
    #[comptime] pin_newest: bool,
    #[comptime] walk: Walk,
) -> Candidates {
    let step = comptime!(walk.units * walk.width);
    let run = (n_pages + step - 1) / step * walk.width;
    let first = min(UNIT_POS as usize * run, n_pages);
    let mut newest = n_pages;
    let mut missing = k - sinks;
    if comptime!(pin_newest) {
        newest -= 1;
        missing -= 1;
    }
    Candidates {
        offset,
        sinks,
        newest,
        first,
        end: min(first + run, n_pages),
        missing: missing as u32,
    }
}
