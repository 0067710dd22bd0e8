use burn::tensor::DType;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::{address_type, empty},
    candidates::Walk,
    choice::{choose_pages, list_all_pages},
};

/// Most units of a cube.
const UNITS: usize = 512;

/// One cube per sequence and head; each unit owns a run of neighbouring pages.
#[cube(launch_unchecked, address_type = "dynamic")]
fn top_pages_kernel<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    lengths: &Tensor<i32>,
    ids: &mut Tensor<i32>,
    sink_pages: u32,
    #[comptime] pin_newest: bool,
    #[comptime] walk: Walk,
    #[comptime] page_size: usize,
) {
    let row = CUBE_POS_X as usize;
    let length = lengths[row / scores.shape(1)] as usize;
    let n_pages = min((length + page_size - 1) / page_size, scores.shape(2));
    if n_pages <= ids.shape(2) {
        list_all_pages(ids, row, n_pages);
    } else {
        let sinks = sink_pages as usize;
        choose_pages::<N>(scores, ids, row, n_pages, sinks, pin_newest, walk);
    }
}

/// The `k` pages with the highest scores of each head, ascending.
pub(crate) fn launch_top_pages(
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
    let most = UNITS.min(hardware.max_units_per_cube as usize).max(plane);
    let most = 1 << most.ilog2();
    let units = (n_scores / 4)
        .next_power_of_two()
        .clamp(128.max(plane).min(most), most);
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
            walk.width,
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
