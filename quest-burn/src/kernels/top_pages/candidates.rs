//! How a cube walks the pages of a head.

use cubecl::prelude::*;

/// Most keys that a unit has in registers.
const CACHED: usize = 32;
/// Scores that a unit loads at a time where rows allow it.
const WIDTH: usize = 4;
/// Most pages of which two counts fit into one number of 32 bits.
const MAX_PACKED: usize = 1 << 16;

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
    /// Whether pages are the survivors of the first stage, not all of a head.
    pub second_stage: bool,
    /// Whether two counts of pages are one number, of 16 bits each.
    pub packed_counts: bool,
}

impl Walk {
    /// The walk of a cube of `units` over up to `n_pages` pages of a head with `n_scores`.
    pub(super) fn new(units: usize, plane: usize, n_pages: usize, n_scores: usize) -> Self {
        let width = if n_scores.is_multiple_of(WIDTH) {
            WIDTH
        } else {
            1
        };
        Self::with_width(units, plane, n_pages, width)
    }

    /// The walk of a cube of `units` over `n_pages` survivors of the first stage.
    pub(super) fn second_stage(units: usize, plane: usize, n_pages: usize) -> Self {
        Self {
            second_stage: true,
            ..Self::with_width(units, plane, n_pages, 1)
        }
    }

    fn with_width(units: usize, plane: usize, n_pages: usize, width: usize) -> Self {
        let per_unit = n_pages.div_ceil(units).next_power_of_two();
        let per_unit = per_unit.max(width);
        // Drivers that run on the CPU, whose planes are small, are slow to compile long kernels.
        let max_items = if plane < 32 { CACHED / 4 } else { CACHED };
        let items = per_unit.min(max_items);
        Self {
            units,
            plane,
            items,
            chunks: per_unit / items,
            width,
            second_stage: false,
            packed_counts: n_pages <= MAX_PACKED,
        }
    }
}

/// The pages of one head that a cube chooses from: a segment of them, or the survivors of all segments.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Pages {
    /// Where the scores of the head begin, and its survivors if there are some.
    pub scores: usize,
    pub survivors: usize,
    /// The first page of the segment, and how many pages there are.
    pub base: usize,
    pub count: usize,
    /// Pages before this one are kept, and from this one on.
    pub sinks: usize,
    pub recent: usize,
    /// Pages to choose besides those that are kept.
    pub missing: u32,
}

/// The pages of which a unit of a cube has some.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Candidates {
    pub pages: Pages,
    /// This unit's: `first..end`.
    pub first: usize,
    pub end: usize,
}

/// Shares the pages among the units of a cube, as neighbouring runs of whole loads.
#[cube]
pub(super) fn candidates(pages: Pages, #[comptime] walk: Walk) -> Candidates {
    let step = comptime!(walk.units * walk.width);
    let run = (pages.count + step - 1) / step * walk.width;
    let first = min(UNIT_POS as usize * run, pages.count);
    let end = min(first + run, pages.count);
    Candidates { pages, first, end }
}

/// The page of a head that stands at `index`, or -1 where there is none.
#[cube]
pub(super) fn page_at(
    survivors: &Tensor<i32>,
    candidates: &Candidates,
    index: usize,
    #[comptime] walk: Walk,
) -> i32 {
    if comptime!(walk.second_stage) {
        let last = candidates.pages.count - 1;
        survivors[candidates.pages.survivors + min(index, last)]
    } else {
        (candidates.pages.base + index) as i32
    }
}
