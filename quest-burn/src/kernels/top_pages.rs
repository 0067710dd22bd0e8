//! Exact top-k by radix selection: three digits of the score find the k-th highest, one prefix
//! sum over the pages lists what is above it in ascending order.

use burn::tensor::DType;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    launch::{address_type, empty},
    row::cube_prefix_sum,
};

/// Most units of a cube.
const UNITS: usize = 1024;
/// Most scores that a unit keeps in registers; beyond it they are read again for every digit.
const CACHED: usize = 8;
/// Bins of the widest digit.
const BINS: usize = 2048;
/// The key of a page that is always kept.
const KEPT: u32 = u32::MAX;

/// Which pages of a sequence are always kept.
#[derive(CubeType, Clone, Copy)]
struct Candidates {
    n_pages: usize,
    /// Pages before this one are kept.
    sinks: usize,
    /// Pages from this one on are kept.
    newest: usize,
    /// Scores of this row start here.
    offset: usize,
    /// Pages of this unit: `first..end`.
    first: usize,
    end: usize,
}

/// Maps a score to an integer of the same order; 0 stands for no page.
#[cube]
fn key_of(scores: &Tensor<f32>, candidates: &Candidates, page: usize) -> u32 {
    let mut key = 0u32;
    if page < candidates.end {
        if page < candidates.sinks || page >= candidates.newest {
            key = KEPT;
        } else {
            let score = scores[candidates.offset + page];
            let bits = u32::reinterpret(score);
            let ordered = select(
                (bits >> 31u32) == 1u32,
                bits ^ 0xFFFF_FFFFu32,
                bits | 0x8000_0000u32,
            );
            // -0 and +0 tie.
            key = select(score == 0.0f32, 0x8000_0000u32, max(ordered, 1u32));
        }
    }
    key
}

/// The key of this unit's `i`-th page.
#[cube]
fn nth_key(
    keys: &Array<u32>,
    scores: &Tensor<f32>,
    candidates: &Candidates,
    i: usize,
    #[comptime] cached: usize,
) -> u32 {
    if comptime!(cached > 0) {
        keys[i]
    } else {
        key_of(scores, candidates, candidates.first + i)
    }
}

/// What is known of the k-th highest key: its leading bits.
#[derive(CubeType, Clone, Copy)]
struct Threshold {
    prefix: u32,
    /// Pages still to be taken from those with this prefix.
    missing: u32,
    /// Pages with this prefix.
    ties: u32,
}

/// Counts one more digit of the keys that begin with the threshold's prefix.
#[cube]
fn count_key(
    histogram: &Shared<[Atomic<u32>]>,
    key: u32,
    prefix: u32,
    #[comptime] shift: u32,
    #[comptime] bits: u32,
) {
    let mut inside = key != 0u32;
    if comptime!(shift + bits < 32) {
        inside = inside && (key >> comptime!(shift + bits)) == prefix;
    }
    if inside {
        let bin = (key >> shift) & comptime!((1u32 << bits) - 1);
        histogram[bin as usize].fetch_add(1u32);
    }
}

/// Finds one more digit of the k-th highest key.
#[cube]
fn next_digit(
    keys: &Array<u32>,
    scores: &Tensor<f32>,
    candidates: &Candidates,
    histogram: &Shared<[Atomic<u32>]>,
    plane_sums: &mut Shared<[u32]>,
    found: &mut Shared<[u32]>,
    threshold: Threshold,
    #[comptime] shift: u32,
    #[comptime] bits: u32,
    #[comptime] units: usize,
    #[comptime] plane: usize,
    #[comptime] cached: usize,
) -> Threshold {
    let bins = comptime!(1usize << bits);
    let per_unit = comptime!((bins / units).max(1));
    let unit = UNIT_POS as usize;
    let owns = unit < bins;

    #[unroll]
    for j in 0..per_unit {
        if owns {
            histogram[j * units + unit].store(0u32);
        }
    }
    sync_cube();
    if comptime!(cached > 0) {
        #[unroll]
        for i in 0..cached {
            count_key(histogram, keys[i], threshold.prefix, shift, bits);
        }
    } else {
        for page in candidates.first..candidates.end {
            let key = key_of(scores, candidates, page);
            count_key(histogram, key, threshold.prefix, shift, bits);
        }
    }
    sync_cube();

    // From the highest bin down: this unit owns `per_unit` neighbouring ones.
    let mut own = 0u32;
    #[unroll]
    for j in 0..per_unit {
        if owns {
            own += histogram[bins - 1 - (unit * per_unit + j)].load();
        }
    }
    let mut above = cube_prefix_sum(own, plane_sums, units, plane);
    #[unroll]
    for j in 0..per_unit {
        if owns {
            let bin = bins - 1 - (unit * per_unit + j);
            let count = histogram[bin].load();
            if above < threshold.missing && above + count >= threshold.missing {
                found[0] = bin as u32;
                found[1] = threshold.missing - above;
                found[2] = count;
            }
            above += count;
        }
    }
    sync_cube();
    let next = Threshold {
        prefix: (threshold.prefix << bits) | found[0],
        missing: found[1],
        ties: found[2],
    };
    sync_cube();
    next
}

/// One cube per sequence and head; each unit owns a run of neighbouring pages.
#[cube(launch_unchecked, address_type = "dynamic")]
fn top_pages_kernel(
    scores: &Tensor<f32>,
    lengths: &Tensor<i32>,
    ids: &mut Tensor<i32>,
    sink_pages: u32,
    #[comptime] pin_newest: bool,
    #[comptime] units: usize,
    #[comptime] plane: usize,
    #[comptime] cached: usize,
    #[comptime] page_size: usize,
) {
    let row = CUBE_POS_X as usize;
    let heads = scores.shape(1);
    let n_scores = scores.shape(2);
    let k = ids.shape(2);
    let unit = UNIT_POS as usize;
    let length = lengths[row / heads] as usize;
    let n_pages = min((length + page_size - 1) / page_size, n_scores);
    let list = row * k;

    if n_pages <= k {
        let mut slot = unit;
        while slot < k {
            ids[list + slot] = select(slot < n_pages, slot as i32, -1i32);
            slot += units;
        }
        terminate!();
    }

    let histogram = Shared::<[Atomic<u32>]>::new_slice(BINS);
    let mut plane_sums = Shared::<[u32]>::new_slice(comptime!(units / plane));
    let mut found = Shared::<[u32]>::new_slice(3usize);

    let run = (n_pages + units - 1) / units;
    let first = min(unit * run, n_pages);
    let mut newest = n_pages;
    if comptime!(pin_newest) {
        newest = n_pages - 1;
    }
    let candidates = Candidates {
        n_pages,
        sinks: sink_pages as usize,
        newest,
        offset: row * n_scores,
        first,
        end: min(first + run, n_pages),
    };
    let mut keys = Array::<u32>::new(comptime!(cached.max(1)));
    if comptime!(cached > 0) {
        #[unroll]
        for i in 0..cached {
            keys[i] = key_of(scores, &candidates, candidates.first + i);
        }
    }

    let mut threshold = Threshold {
        prefix: 0u32,
        missing: k as u32,
        ties: 0u32,
    };
    threshold = next_digit(
        &keys, scores, &candidates, &histogram, &mut plane_sums, &mut found, threshold, 21u32,
        11u32, units, plane, cached,
    );
    let mut open = 21u32;
    // When all pages with the prefix are taken, the remaining digits decide nothing.
    if threshold.missing != threshold.ties {
        threshold = next_digit(
            &keys, scores, &candidates, &histogram, &mut plane_sums, &mut found, threshold, 10u32,
            11u32, units, plane, cached,
        );
        open = 10u32;
        if threshold.missing != threshold.ties {
            threshold = next_digit(
                &keys, scores, &candidates, &histogram, &mut plane_sums, &mut found, threshold,
                0u32, 10u32, units, plane, cached,
            );
            open = 0u32;
        }
    }

    // Pages above the prefix are taken, and of those with it the first `missing`.
    let mut n_above = 0u32;
    let mut n_equal = 0u32;
    let own = candidates.end - candidates.first;
    if comptime!(cached > 0) {
        #[unroll]
        for i in 0..cached {
            let key = keys[i];
            let prefix = key >> open;
            n_above += select(key != 0u32 && prefix > threshold.prefix, 1u32, 0u32);
            n_equal += select(key != 0u32 && prefix == threshold.prefix, 1u32, 0u32);
        }
    } else {
        for i in 0..own {
            let prefix = nth_key(&keys, scores, &candidates, i, cached) >> open;
            n_above += select(prefix > threshold.prefix, 1u32, 0u32);
            n_equal += select(prefix == threshold.prefix, 1u32, 0u32);
        }
    }
    let mut above = cube_prefix_sum(n_above, &mut plane_sums, units, plane);
    let mut equal = cube_prefix_sum(n_equal, &mut plane_sums, units, plane);
    if comptime!(cached > 0) {
        #[unroll]
        for i in 0..cached {
            let key = keys[i];
            let prefix = key >> open;
            let is_above = key != 0u32 && prefix > threshold.prefix;
            let is_equal = key != 0u32 && prefix == threshold.prefix;
            if is_above || (is_equal && equal < threshold.missing) {
                let slot = above + min(equal, threshold.missing);
                ids[list + slot as usize] = (candidates.first + i) as i32;
            }
            above += select(is_above, 1u32, 0u32);
            equal += select(is_equal, 1u32, 0u32);
        }
    } else {
        for i in 0..own {
            let prefix = nth_key(&keys, scores, &candidates, i, cached) >> open;
            let is_above = prefix > threshold.prefix;
            let is_equal = prefix == threshold.prefix;
            if is_above || (is_equal && equal < threshold.missing) {
                let slot = above + min(equal, threshold.missing);
                ids[list + slot as usize] = (candidates.first + i) as i32;
            }
            above += select(is_above, 1u32, 0u32);
            equal += select(is_equal, 1u32, 0u32);
        }
    }
}

/// The `k` pages with the highest scores of each head, ascending.
pub(crate) fn top_pages(
    scores: CubeTensor,
    lengths: CubeTensor,
    page_size: usize,
    k: usize,
    pin_newest: bool,
    sink_pages: usize,
) -> CubeTensor {
    let scores = into_contiguous(scores);
    let shape = scores.meta.shape();
    let (batch, heads, n_scores) = (shape[0], shape[1], shape[2]);
    let client = scores.client.clone();
    let hardware = &client.properties().hardware;
    let plane = hardware.plane_size_min as usize;
    let most = UNITS.min(hardware.max_units_per_cube as usize);
    let units = (n_scores / 2).next_power_of_two().clamp(plane.max(32), most);
    let run = n_scores.div_ceil(units);
    let cached = if run <= CACHED {
        run.next_power_of_two()
    } else {
        0
    };
    let ids = empty(&scores, [batch, heads, k], DType::I32);
    let address = address_type(&[&scores, &ids]);
    // SAFETY: pages are masked by the lengths and the number of scores; a slot is below `k`, as no
    // more than `k` pages are taken; the arguments were checked before the operation was
    // registered.
    unsafe {
        top_pages_kernel::launch_unchecked(
            &client,
            CubeCount::Static((batch * heads) as u32, 1, 1),
            CubeDim::new_1d(units as u32),
            address,
            scores.into_tensor_arg(),
            lengths.into_tensor_arg(),
            ids.clone().into_tensor_arg(),
            sink_pages as u32,
            pin_newest,
            units,
            plane,
            cached,
            page_size,
        );
    }
    ids
}
