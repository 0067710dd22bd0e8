//! The k-th highest page score of a head, found by one cube.
//!
//! Scores are counted in bins of equal width between the lowest and the highest; the few scores in
//! the bin of the k-th highest are ranked against one another. Where they are many (an outlier
//! stretches the range, or scores are equal) three radix digits decide instead. Either way the
//! choice is exact, and ties go to the lower page.

use cubecl::prelude::*;

use super::{
    super::row::{cube_prefix_sum, lanes_max},
    candidates::{Candidates, Walk},
    keys::{KEPT, competes, score_of, turn_to},
};

/// Bins of a count.
const BINS: usize = 2048;
/// Any score is closer to zero.
const FAR: f32 = 3.0e38;
/// A narrower range of scores is not worth a division.
const NARROW: f32 = 1e-30;

/// What separates the chosen pages from the others.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Threshold {
    /// The key of the k-th highest score: pages above it are chosen.
    pub key: u32,
    /// How many of the pages with this very key are chosen, the lowest first.
    pub ties: u32,
}

/// Finds the threshold of a head. Every unit of the cube must reach it.
#[cube]
pub(super) fn find_threshold<N: Size>(
    keys: &mut Array<u32>,
    scores: &Tensor<Vector<f32, N>>,
    survivors: &Tensor<i32>,
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
        turn_to::<N>(keys, scores, survivors, candidates, chunk, walk);
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
        turn_to::<N>(keys, scores, survivors, candidates, chunk, walk);
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
        candidates.pages.missing,
        BINS,
        walk,
    );
    let bin = found[0];
    let missing = found[1];
    let count = found[2];
    sync_cube();

    if count <= units as u32 {
        // Stands when no page is missing besides those that are kept.
        if unit == 0 {
            found[0] = comptime!(KEPT - 1);
            found[1] = 0u32;
        }
        for chunk in 0..walk.chunks {
            turn_to::<N>(keys, scores, survivors, candidates, chunk, walk);
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
        let mut missing = candidates.pages.missing;
        #[unroll]
        for digit in 0..3u32 {
            let shift = comptime!([21u32, 10, 0][digit as usize]);
            let bits = comptime!([11u32, 11, 10][digit as usize]);
            clear(&histogram, units);
            sync_cube();
            for chunk in 0..walk.chunks {
                turn_to::<N>(keys, scores, survivors, candidates, chunk, walk);
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
