//! The k-th highest page score of a head, found by one cube.
//!
//! Scores are counted in bins of equal width between the lowest and the highest; the few scores in
//! the bin of the k-th highest are ranked against one another. Where they are many (an outlier
//! stretches the range, or scores are equal) three radix digits decide instead. Either way the
//! choice is exact, and ties go to the lower page.

use cubecl::prelude::*;

use super::row::{cube_prefix_sum, lanes_max};

/// Bins of a count.
const BINS: usize = 2048;
/// The key of a page that is always kept: above all others.
const KEPT: u32 = u32::MAX;
/// Any score is closer to zero.
const FAR: f32 = 3.0e38;
/// A narrower range of scores is not worth a division.
const NARROW: f32 = 1e-30;
/// Most keys that a unit has in registers.
const CACHED: usize = 32;
/// Scores that a unit loads at a time where rows allow it.
const WIDTH: usize = 4;

/// The pages of one head that a cube chooses from.
#[derive(CubeType, Clone, Copy)]
struct Candidates {
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

/// What separates the chosen pages from the others.
#[derive(CubeType, Clone, Copy)]
struct Threshold {
    /// The key of the k-th highest score: pages above it are chosen.
    pub key: u32,
    /// How many of the pages with this very key are chosen, the lowest first.
    pub ties: u32,
}

/// Shares the first `n_pages` pages of a head among the units of a cube, as neighbouring runs of
/// whole loads.
#[cube]
fn candidates(
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

/// Maps a page's score to an integer of the same order; 0 stands for no page.
///
/// By selects, not branches: into a branch the load of the score would sink, and each load would
/// wait for the one before it.
#[cube]
fn key_of(score: f32, page: usize, candidates: &Candidates) -> u32 {
    let bits = u32::reinterpret(score);
    let ordered = select(
        (bits >> 31u32) == 1u32,
        bits ^ 0xFFFF_FFFFu32,
        bits | 0x8000_0000u32,
    );
    // -0 and +0 tie.
    let ordered = select(score == 0.0f32, 0x8000_0000u32, ordered);
    let key = min(max(ordered, 1u32), comptime!(KEPT - 1));
    let kept = page < candidates.sinks || page >= candidates.newest;
    select(
        page < candidates.end,
        select(kept, KEPT.runtime(), key),
        0u32,
    )
}

/// The score that a key stands for.
#[cube]
fn score_of(key: u32) -> f32 {
    f32::reinterpret(select(
        (key >> 31u32) == 1u32,
        key & 0x7FFF_FFFFu32,
        key ^ 0xFFFF_FFFFu32,
    ))
}

/// Whether a page takes part in the choice.
#[cube]
fn competes(key: u32) -> bool {
    key != 0u32 && key != KEPT
}

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

/// The scores from this unit's `i`-th page on, a load of them; those past the last page of a head
/// are of no meaning, but they are in the tensor.
#[cube]
fn load_scores<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    candidates: &Candidates,
    i: usize,
    #[comptime] walk: Walk,
) -> Vector<f32, N> {
    let page = min(candidates.first + i, scores.shape(2) - walk.width);
    scores[(candidates.offset + page) / walk.width]
}

/// Reads the keys of this unit's pages from `first` on, a chunk of them.
#[cube]
fn load_keys<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    candidates: &Candidates,
    first: usize,
    #[comptime] walk: Walk,
) {
    let loads = comptime!(walk.items / walk.width);
    let mut loaded = Array::<Vector<f32, N>>::new(loads);
    #[unroll]
    for i in 0..loads {
        loaded[i] = load_scores::<N>(scores, candidates, first + i * walk.width, walk);
    }
    #[unroll]
    for i in 0..loads {
        #[unroll]
        for lane in 0..walk.width {
            let item = i * walk.width + lane;
            keys[item] = key_of(
                loaded[i].extract(lane),
                candidates.first + first + item,
                candidates,
            );
        }
    }
}

/// Has the keys of a chunk in registers, where they are if there is but one.
#[cube]
fn turn_to<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    candidates: &Candidates,
    chunk: usize,
    #[comptime] walk: Walk,
) {
    if comptime!(walk.chunks > 1) {
        load_keys::<N>(keys, scores, candidates, chunk * walk.items, walk);
    }
}

/// Finds the threshold of a head. Every unit of the cube must reach it.
#[cube]
fn find_threshold<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    candidates: &Candidates,
    plane_sums: &mut Shared<[u32]>,
    #[comptime] walk: Walk,
) -> Threshold {
    let units = comptime!(walk.units);
    let plane = comptime!(walk.plane);
    let planes = comptime!(units / plane);
    let unit = UNIT_POS as usize;
    let histogram = Shared::<[Atomic<u32>]>::new_slice(BINS);
    let mut found = Shared::<[u32]>::new_slice(3usize);
    let mut ranges = Shared::<[f32]>::new_slice(comptime!(2 * planes));
    let n_ranked = Shared::<[Atomic<u32>]>::new_slice(1usize);
    let mut ranked_keys = Shared::<[u32]>::new_slice(units);
    let mut ranked_pages = Shared::<[u32]>::new_slice(units);

    let mut low = f32::new(FAR);
    let mut high = f32::new(-FAR);
    for chunk in 0..walk.chunks {
        turn_to::<N>(keys, scores, candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            if competes(key) {
                low = min(low, score_of(key));
                high = max(high, score_of(key));
            }
        }
    }
    let low_of_plane = -lanes_max(-low, plane);
    let high_of_plane = lanes_max(high, plane);
    if unit % plane == 0 {
        ranges[unit / plane] = low_of_plane;
        ranges[planes + unit / plane] = high_of_plane;
    }
    if unit == 0 {
        n_ranked[0].store(0u32);
        found[2] = 0u32;
    }
    clear(&histogram, units);
    sync_cube();
    #[unroll(planes <= 32)]
    for p in 0..planes {
        low = min(low, ranges[p]);
        high = max(high, ranges[planes + p]);
    }
    let range = high - low;
    let mut scale = f32::new(0.0);
    if range > NARROW && range < FAR {
        scale = f32::new(BINS as f32) / range;
    }

    for chunk in 0..walk.chunks {
        turn_to::<N>(keys, scores, candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            if competes(key) {
                histogram[bin_of(key, low, scale) as usize].fetch_add(1u32);
            }
        }
    }
    sync_cube();
    find_bin(
        &histogram,
        plane_sums,
        &mut found,
        candidates.missing,
        BINS,
        walk,
    );
    let bin = found[0];
    let missing = found[1];
    let count = found[2];
    sync_cube();

    if count <= units as u32 {
        // Stands when no page is missing beside those that are kept.
        if unit == 0 {
            found[0] = comptime!(KEPT - 1);
            found[1] = 0u32;
        }
        for chunk in 0..walk.chunks {
            turn_to::<N>(keys, scores, candidates, chunk, walk);
            #[unroll]
            for i in 0..walk.items {
                let key = keys[i];
                if count > 0u32 && competes(key) && bin_of(key, low, scale) == bin {
                    let slot = n_ranked[0].fetch_add(1u32) as usize;
                    ranked_keys[slot] = key;
                    ranked_pages[slot] = (candidates.first + chunk * walk.items + i) as u32;
                }
            }
        }
        sync_cube();
        if UNIT_POS < count {
            let key = ranked_keys[unit];
            let page = ranked_pages[unit];
            let mut above = 0u32;
            let mut ties = 0u32;
            for other in 0..count as usize {
                let other_key = ranked_keys[other];
                above += select(other_key > key, 1u32, 0u32);
                let tie = other_key == key && ranked_pages[other] < page;
                ties += select(tie, 1u32, 0u32);
            }
            if above + ties + 1u32 == missing {
                found[0] = key;
                found[1] = ties + 1u32;
            }
        }
        sync_cube();
    } else {
        let mut prefix = 0u32;
        let mut missing = candidates.missing;
        #[unroll]
        for digit in 0..3u32 {
            let shift = comptime!([21u32, 10, 0][digit as usize]);
            let bits = comptime!([11u32, 11, 10][digit as usize]);
            clear(&histogram, units);
            sync_cube();
            for chunk in 0..walk.chunks {
                turn_to::<N>(keys, scores, candidates, chunk, walk);
                #[unroll]
                for i in 0..walk.items {
                    let key = keys[i];
                    let mut inside = competes(key);
                    if comptime!(digit > 0) {
                        inside = inside && (key >> comptime!(shift + bits)) == prefix;
                    }
                    if inside {
                        let digit = (key >> shift) & comptime!((1u32 << bits) - 1);
                        histogram[digit as usize].fetch_add(1u32);
                    }
                }
            }
            sync_cube();
            let bins = comptime!(1usize << bits);
            find_bin(&histogram, plane_sums, &mut found, missing, bins, walk);
            prefix = (prefix << bits) | found[0];
            missing = found[1];
            sync_cube();
        }
        if unit == 0 {
            found[0] = prefix;
            found[1] = missing;
        }
        sync_cube();
    }
    Threshold {
        key: found[0],
        ties: found[1],
    }
}

/// The bin of a score, ascending with it.
#[cube]
fn bin_of(key: u32, low: f32, scale: f32) -> u32 {
    let bin = u32::cast_from((score_of(key) - low) * scale);
    min(bin, comptime!(BINS as u32 - 1))
}

#[cube]
fn clear(histogram: &Shared<[Atomic<u32>]>, #[comptime] units: usize) {
    #[unroll]
    for j in 0..comptime!(BINS / units) {
        histogram[j * units + UNIT_POS as usize].store(0u32);
    }
}

/// Finds the bin, from the highest down, in which the `missing`-th score lies: the bin, how many
/// of its scores are chosen and how many it holds.
#[cube]
fn find_bin(
    histogram: &Shared<[Atomic<u32>]>,
    plane_sums: &mut Shared<[u32]>,
    found: &mut Shared<[u32]>,
    missing: u32,
    #[comptime] bins: usize,
    #[comptime] walk: Walk,
) {
    let units = comptime!(walk.units);
    let per_unit = comptime!((bins / units).max(1));
    let unit = UNIT_POS as usize;
    let mut own = 0u32;
    #[unroll]
    for j in 0..per_unit {
        own += histogram[bins - 1 - (unit * per_unit + j)].load();
    }
    let mut above = cube_prefix_sum(own, plane_sums, units, walk.plane);
    #[unroll]
    for j in 0..per_unit {
        let bin = bins - 1 - (unit * per_unit + j);
        let count = histogram[bin].load();
        if above < missing && above + count >= missing {
            found[0] = bin as u32;
            found[1] = missing - above;
            found[2] = count;
        }
        above += count;
    }
    sync_cube();
}

/// Chosen pages before this unit's, and pages with the threshold's key before them; both fit into
/// 16 bits, as there are no more than 65,536 pages and not all are chosen.
#[cube]
fn count_chosen<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    candidates: &Candidates,
    threshold: &Threshold,
    plane_sums: &mut Shared<[u32]>,
    #[comptime] walk: Walk,
) -> (u32, u32) {
    let mut counts = 0u32;
    for chunk in 0..walk.chunks {
        turn_to::<N>(keys, scores, candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            counts += select(key > threshold.key, 1u32, 0u32);
            counts += select(key == threshold.key, 0x1_0000u32, 0u32);
        }
    }
    let before = cube_prefix_sum(counts, plane_sums, walk.units, walk.plane);
    (before & 0xFFFFu32, before >> 16u32)
}

/// Writes the `k` pages with the highest scores of a head to its row of `ids`, ascending. The
/// head has more than `k` pages. Every unit of the cube must reach it.
#[cube]
pub(super) fn choose_pages<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    ids: &mut Tensor<i32>,
    row: usize,
    n_pages: usize,
    sinks: usize,
    #[comptime] pin_newest: bool,
    #[comptime] walk: Walk,
) {
    let k = ids.shape(2);
    let list = row * k;
    let mut plane_sums = Shared::<[u32]>::new_slice(comptime!(walk.units / walk.plane));
    let offset = row * scores.shape(2);
    let candidates = candidates(offset, n_pages, k, sinks, pin_newest, walk);
    let mut keys = Array::<u32>::new(walk.items);
    load_keys::<N>(&mut keys, scores, &candidates, 0usize, walk);
    let threshold = find_threshold::<N>(&mut keys, scores, &candidates, &mut plane_sums, walk);
    let (mut above, mut equal) = count_chosen::<N>(
        &mut keys,
        scores,
        &candidates,
        &threshold,
        &mut plane_sums,
        walk,
    );
    for chunk in 0..walk.chunks {
        turn_to::<N>(&mut keys, scores, &candidates, chunk, walk);
        #[unroll]
        for i in 0..walk.items {
            let key = keys[i];
            let is_above = key > threshold.key;
            let is_equal = key == threshold.key;
            if is_above || (is_equal && equal < threshold.ties) {
                let slot = above + min(equal, threshold.ties);
                let page = candidates.first + chunk * walk.items + i;
                ids[list + slot as usize] = page as i32;
            }
            above += select(is_above, 1u32, 0u32);
            equal += select(is_equal, 1u32, 0u32);
        }
    }
}

/// Lists every page of a head that has no more than a list holds, then -1.
#[cube]
pub(super) fn list_all_pages(ids: &mut Tensor<i32>, row: usize, n_pages: usize) {
    let k = ids.shape(2);
    let mut slot = UNIT_POS as usize;
    while slot < k {
        ids[row * k + slot] = select(slot < n_pages, slot as i32, -1i32);
        slot += CUBE_DIM as usize;
    }
}
