use burn::tensor::DType;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    launch::{address_type, empty},
    selection::{Walk, candidates, count_chosen, find_threshold, load_keys, nth_key},
};

/// Most units of a cube.
const UNITS: usize = 512;

/// One cube per sequence and head; each unit owns a run of neighbouring pages.
#[cube(launch_unchecked, address_type = "dynamic")]
fn top_pages_kernel(
    scores: &Tensor<f32>,
    lengths: &Tensor<i32>,
    ids: &mut Tensor<i32>,
    sink_pages: u32,
    #[comptime] pin_newest: bool,
    #[comptime] walk: Walk,
    #[comptime] page_size: usize,
) {
    let row = CUBE_POS_X as usize;
    let heads = scores.shape(1);
    let n_scores = scores.shape(2);
    let k = ids.shape(2);
    let length = lengths[row / heads] as usize;
    let n_pages = min((length + page_size - 1) / page_size, n_scores);
    let list = row * k;

    if n_pages <= k {
        let mut slot = UNIT_POS as usize;
        while slot < k {
            ids[list + slot] = select(slot < n_pages, slot as i32, -1i32);
            slot += comptime!(walk.units);
        }
        terminate!();
    }

    let mut plane_sums = Shared::<[u32]>::new_slice(comptime!(walk.units / walk.plane));
    let candidates = candidates(
        row * n_scores,
        n_pages,
        k,
        sink_pages as usize,
        pin_newest,
        walk.units,
    );
    let keys = load_keys(scores, &candidates, walk);
    let threshold = find_threshold(&keys, scores, &candidates, &mut plane_sums, walk);
    let (mut above, mut equal) = count_chosen(
        &keys,
        scores,
        &candidates,
        &threshold,
        &mut plane_sums,
        walk,
    );
    #[unroll(walk.cached)]
    for i in 0..walk.items {
        let key = nth_key(&keys, scores, &candidates, i, walk);
        let is_above = key > threshold.key;
        let is_equal = key == threshold.key;
        if is_above || (is_equal && equal < threshold.ties) {
            let slot = above + min(equal, threshold.ties);
            ids[list + slot as usize] = (candidates.first + i) as i32;
        }
        above += select(is_above, 1u32, 0u32);
        equal += select(is_equal, 1u32, 0u32);
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
    let units = (n_scores / 4)
        .next_power_of_two()
        .clamp(128.max(plane), most);
    let walk = Walk::new(units, plane, n_scores);
    let ids = empty(&scores, [batch, heads, k], DType::I32);
    let address = address_type(&[&scores, &ids]);
    // SAFETY: pages are masked by the lengths and the number of scores; a slot is below `k`, as no
    // more than `k` pages are chosen; the arguments were checked before the operation was
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
            walk,
            page_size,
        );
    }
    ids
}
