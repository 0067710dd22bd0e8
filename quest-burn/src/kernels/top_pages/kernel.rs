use burn::tensor::DType;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::{address_type, empty},
    TopPages,
    candidates::{Pages, Walk},
    choice::{choose_pages, list_all_pages},
    segments::Segments,
};
use crate::pages::PageSelection;

/// Most units of a cube.
const UNITS: usize = 512;

/// Chooses from each segment of `segment` pages of a head, or from the survivors of all, `[batch, heads, n]`, and writes
/// the chosen pages to `ids`, `[batch, heads, segments * k]`. Cubes: sequences and heads, segments; each unit
/// owns a run of neighbouring pages.
#[cube(launch_unchecked, address_type = "dynamic")]
fn top_pages_kernel<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    survivors: &Tensor<i32>,
    lengths: &Tensor<i32>,
    ids: &mut Tensor<i32>,
    sink_pages: u32,
    recent_pages: u32,
    segment: u32,
    #[comptime] walk: Walk,
    #[comptime] page_size: usize,
) {
    let row = CUBE_POS_X as usize;
    let n_scores = scores.shape(2);
    let k = ids.shape(2) / CUBE_COUNT_Y as usize;
    let list = row * ids.shape(2) + CUBE_POS_Y as usize * k;
    let length = lengths[row / scores.shape(1)] as usize;
    let n_pages = min((length + page_size - 1) / page_size, n_scores);
    let base = min((CUBE_POS_Y * segment) as usize, n_pages);
    let segment_pages = min(n_pages - base, segment as usize);
    if segment_pages <= k {
        list_all_pages(ids, list, k, base, segment_pages);
    } else {
        let sinks = sink_pages as usize;
        let recent = n_pages - min(recent_pages as usize, n_pages);
        let end = base + segment_pages;
        // Kept pages of this segment.
        let of_sinks = max(min(sinks, end), base) - base;
        let kept = of_sinks + (end - max(min(recent, end), base));
        let mut count = segment_pages;
        let mut from = 0usize.runtime();
        if comptime!(walk.second_stage) {
            count = survivors.shape(2);
            from = row * count;
        }
        let pages = Pages {
            scores: row * n_scores,
            survivors: from,
            base,
            count,
            sinks,
            recent,
            missing: (k - kept) as u32,
        };
        choose_pages::<N>(scores, survivors, ids, list, pages, walk);
    }
}

/// What a launch chooses from and how.
#[derive(Clone, Copy)]
struct Choice {
    page_size: usize,
    sink_pages: usize,
    recent_pages: usize,
    /// Segments of a head, and pages of each.
    segments: usize,
    segment: usize,
}

impl Choice {
    fn launch(
        self,
        scores: &CubeTensor,
        survivors: &CubeTensor,
        lengths: &CubeTensor,
        walk: Walk,
        k: usize,
    ) -> CubeTensor {
        let [batch, heads, _] = scores.meta.shape().dims::<3>();
        let ids = empty(scores, [batch, heads, self.segments * k], DType::I32);
        // SAFETY: pages are masked by the lengths and the number of scores; a slot is below `k`, as no
        // more than `k` pages are chosen; the arguments were checked before the operation was
        // registered.
        unsafe {
            top_pages_kernel::launch_unchecked(
                &scores.client,
                CubeCount::Static((batch * heads) as u32, self.segments as u32, 1),
                CubeDim::new_1d(walk.units as u32),
                address_type(&[scores, &ids]),
                walk.width,
                scores.clone().into_tensor_arg(),
                survivors.clone().into_tensor_arg(),
                lengths.clone().into_tensor_arg(),
                ids.clone().into_tensor_arg(),
                self.sink_pages as u32,
                self.recent_pages as u32,
                self.segment as u32,
                walk,
                self.page_size,
            );
        }
        ids
    }
}

/// The `k` pages with the highest scores of each head, ascending.
pub(in crate::kernels) fn launch(
    scores: CubeTensor,
    lengths: CubeTensor,
    TopPages {
        page_size,
        selection,
    }: TopPages,
) -> CubeTensor {
    let PageSelection {
        k,
        sink_pages,
        recent_pages,
    } = selection;
    let scores = into_contiguous(scores);
    let n_scores = scores.meta.shape()[2];
    let hardware = &scores.client.properties().hardware;
    let plane = hardware.plane_size_min as usize;
    let max_units = UNITS.min(hardware.max_units_per_cube as usize).max(plane);
    let max_units = 1 << max_units.ilog2();
    let units = |n_pages: usize| {
        (n_pages / 4)
            .next_power_of_two()
            .clamp(128.max(plane).min(max_units), max_units)
    };
    let choice = |segments, segment| Choice {
        page_size,
        sink_pages,
        recent_pages,
        segments,
        segment,
    };
    match Segments::new(n_scores, k) {
        None => {
            let walk = Walk::new(units(n_scores), plane, n_scores, n_scores);
            // In a single stage there are no survivors; the lengths are a placeholder.
            choice(1, n_scores).launch(&scores, &lengths, &lengths, walk, k)
        }
        Some(Segments { count, pages }) => {
            let walk = Walk::new(units(pages), plane, pages, n_scores);
            let survivors = choice(count, pages).launch(&scores, &lengths, &lengths, walk, k);
            let n_survivors = count * k;
            let walk = Walk::second_stage(units(n_survivors), plane, n_survivors);
            choice(1, n_scores).launch(&scores, &survivors, &lengths, walk, k)
        }
    }
}
