use burn::tensor::DType;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{
    super::launch::{address_type, assert_in_place, empty},
    TopPages,
    candidates::{Pages, Walk},
    choice::{choose_pages, list_all_pages, list_coming_pages},
    segments::Segments,
};
use crate::pages::PageSelection;

/// Most units of a cube.
const UNITS: usize = 512;

/// Chooses from each segment of `segment` pages of a head, or from the survivors of all, `[batch, heads, n]`, and writes
/// the chosen pages to `ids`, `[batch, heads, segments * k]`, with `coming_pages` after the newest among the `k`.
/// Cubes: sequences and heads, segments; each unit owns a run of neighbouring pages. Where not all lists are `renewed`,
/// `due` says which sequences' are.
#[cube(launch_unchecked, address_type = "dynamic")]
fn top_pages_kernel<N: Size>(
    scores: &Tensor<Vector<f32, N>>,
    survivors: &Tensor<i32>,
    lengths: &Tensor<i32>,
    due: &Tensor<i32>,
    ids: &mut Tensor<i32>,
    sink_pages: u32,
    recent_pages: u32,
    coming_pages: u32,
    segment: u32,
    #[comptime] walk: Walk,
    #[comptime] renewed: Renewed,
    #[comptime] page_size: usize,
) {
    let row = CUBE_POS_X as usize;
    let sequence = row / scores.shape(1);
    let n_scores = scores.shape(2);
    let entries = ids.shape(2) / CUBE_COUNT_Y as usize;
    let list = row * ids.shape(2) + CUBE_POS_Y as usize * entries;
    let length = lengths[sequence] as usize;
    let n_pages = min((length + page_size - 1) / page_size, n_scores);
    let base = min((CUBE_POS_Y * segment) as usize, n_pages);
    let segment_pages = min(n_pages - base, segment as usize);
    let coming = coming_pages as usize;
    let mut is_due = true.runtime();
    if comptime!(renewed == Renewed::Due) {
        is_due = due[sequence] != 0i32;
    }
    if is_due && segment_pages <= entries {
        list_all_pages(ids, list, entries, base, segment_pages, coming);
    } else if is_due {
        let k = entries - coming;
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
        list_coming_pages(ids, list + k, coming, n_pages);
    }
}

/// Whose lists a launch writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Renewed {
    All,
    Due,
}

/// What a launch chooses from and how.
#[derive(Clone, Copy)]
struct Choice {
    page_size: usize,
    sink_pages: usize,
    recent_pages: usize,
    /// Pages after the newest that a list names.
    coming_pages: usize,
    /// Segments of a head, and pages of each.
    segments: usize,
    segment: usize,
    renewed: Renewed,
}

/// What a launch reads: where all lists are renewed, what is due is a placeholder, and in a single stage the
/// survivors are.
struct Read<'a> {
    scores: &'a CubeTensor,
    survivors: &'a CubeTensor,
    lengths: &'a CubeTensor,
    due: &'a CubeTensor,
}

impl Choice {
    /// Writes lists of `ids`, `[batch, heads, segments * k]`.
    fn launch(self, read: &Read<'_>, walk: Walk, ids: CubeTensor) -> CubeTensor {
        let scores = read.scores;
        let [batch, heads, _] = scores.meta.shape().dims::<3>();
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
                read.survivors.clone().into_tensor_arg(),
                read.lengths.clone().into_tensor_arg(),
                read.due.clone().into_tensor_arg(),
                ids.clone().into_tensor_arg(),
                self.sink_pages as u32,
                self.recent_pages as u32,
                self.coming_pages as u32,
                self.segment as u32,
                walk,
                self.renewed,
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
    top: TopPages,
) -> CubeTensor {
    let [batch, heads, _] = scores.meta.shape().dims::<3>();
    let ids = empty(&scores, [batch, heads, top.selection.k], DType::I32);
    choose(scores, lengths, None, top, ids)
}

/// The same for the sequences that are due, in place.
pub(in crate::kernels) fn launch_renewal(
    scores: CubeTensor,
    lengths: CubeTensor,
    due: CubeTensor,
    ids: CubeTensor,
    top: TopPages,
) -> CubeTensor {
    assert_in_place("renew_top_pages", "lists of pages", &ids);
    choose(scores, lengths, Some(into_contiguous(due)), top, ids)
}

fn choose(
    scores: CubeTensor,
    lengths: CubeTensor,
    due: Option<CubeTensor>,
    TopPages {
        page_size,
        selection,
        coming_pages,
    }: TopPages,
    ids: CubeTensor,
) -> CubeTensor {
    let PageSelection {
        k,
        sink_pages,
        recent_pages,
    } = selection;
    let scores = into_contiguous(scores);
    let [batch, heads, n_scores] = scores.meta.shape().dims::<3>();
    let hardware = &scores.client.properties().hardware;
    let plane = hardware.plane_size_min as usize;
    let max_units = UNITS.min(hardware.max_units_per_cube as usize).max(plane);
    let max_units = 1 << max_units.ilog2();
    let units = |n_pages: usize| {
        (n_pages / 4)
            .next_power_of_two()
            .clamp(128.max(plane).min(max_units), max_units)
    };
    let renewed = match &due {
        Some(_) => Renewed::Due,
        None => Renewed::All,
    };
    let last = Choice {
        page_size,
        sink_pages,
        recent_pages,
        coming_pages,
        segments: 1,
        segment: n_scores,
        renewed,
    };
    let read = Read {
        scores: &scores,
        survivors: &lengths,
        lengths: &lengths,
        due: due.as_ref().unwrap_or(&lengths),
    };
    // Pages that are chosen by their scores.
    let chosen = k - coming_pages;
    match Segments::new(n_scores, chosen) {
        None => {
            let walk = Walk::new(units(n_scores), plane, n_scores, n_scores);
            last.launch(&read, walk, ids)
        }
        Some(Segments { count, pages }) => {
            let walk = Walk::new(units(pages), plane, pages, n_scores);
            let n_survivors = count * chosen;
            let survivors = empty(&scores, [batch, heads, n_survivors], DType::I32);
            let first = Choice {
                coming_pages: 0,
                segments: count,
                segment: pages,
                ..last
            };
            let survivors = first.launch(&read, walk, survivors);
            let walk = Walk::second_stage(units(n_survivors), plane, n_survivors);
            let read = Read {
                survivors: &survivors,
                ..read
            };
            last.launch(&read, walk, ids)
        }
    }
}
