use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{kernel::into_contiguous, tensor::CubeTensor};
use cubecl::prelude::*;

use super::super::{
    append::touched_pages,
    launch::{address_type, assert_in_place},
    row::RowLayout,
};
use crate::cache::{CHANNELS_PER_SCALE, CHANNELS_PER_WORD, LEAST_SCALE, OUTWARD, SCALE_OF_LARGEST};

/// A digest's rows as vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::kernels) struct PackedRow {
    /// Channels of a vector.
    pub width: usize,
    /// Vectors of a row.
    pub vectors: usize,
}

impl PackedRow {
    pub fn new(width: usize, vectors: usize) -> Self {
        assert!(
            width.is_multiple_of(CHANNELS_PER_WORD) && (width * vectors).is_multiple_of(16),
            "int8 digests: expected a head dim that is a multiple of 16, found {}",
            width * vectors
        );
        Self { width, vectors }
    }
}

/// The largest magnitude in a vector of minima and one of maxima.
#[cube]
pub(in crate::kernels) fn largest_of<N: Size>(
    low: Vector<f32, N>,
    high: Vector<f32, N>,
    #[comptime] row: PackedRow,
) -> f32 {
    let mut largest = f32::new(0.0);
    #[unroll]
    for i in 0..row.width {
        largest = max(largest, max(low.extract(i).abs(), high.extract(i).abs()));
    }
    largest
}

/// Writes the packed minima and maxima of a row's `vector`-th channels, and their scale.
///
/// `largest` has what [`largest_of`] gives for every vector of the row, and the cube was
/// synchronised since. `place` counts the pool's pages of all KV heads.
#[cube]
pub(in crate::kernels) fn pack<N: Size>(
    words: &mut Tensor<i32>,
    scales: &mut Tensor<f32>,
    largest: &Shared<[f32]>,
    low: Vector<f32, N>,
    high: Vector<f32, N>,
    place: usize,
    vector: usize,
    #[comptime] row: PackedRow,
) {
    let per_scale = comptime!(CHANNELS_PER_SCALE / row.width);
    let last = comptime!(row.vectors - 1);
    let of_vector = comptime!(row.width / CHANNELS_PER_WORD);
    let of_row = comptime!(row.vectors * of_vector);
    let n_scales = comptime!(row.vectors.div_ceil(per_scale));
    let group = vector / per_scale;
    let mut most = f32::new(0.0);
    #[unroll]
    for i in 0..per_scale {
        most = max(most, largest[min(group * per_scale + i, last)]);
    }
    let scale = max(most * SCALE_OF_LARGEST, f32::new(LEAST_SCALE));
    #[unroll]
    for w in 0..of_vector {
        let mut minima = i32::new(0);
        let mut maxima = i32::new(0);
        #[unroll]
        for i in 0..CHANNELS_PER_WORD {
            let minimum = low.extract(w * CHANNELS_PER_WORD + i) / scale;
            let maximum = high.extract(w * CHANNELS_PER_WORD + i) / scale;
            let minimum = (minimum - minimum.abs() * OUTWARD).floor();
            let maximum = (maximum + maximum.abs() * OUTWARD).ceil();
            let up = comptime!(8 * i as i32);
            minima |= (i32::cast_from(minimum) & 0xffi32) << up;
            maxima |= (i32::cast_from(maximum) & 0xffi32) << up;
        }
        let to = place * 2 * of_row + vector * of_vector + w;
        words[to] = minima;
        words[to + of_row] = maxima;
    }
    if vector % per_scale == 0 {
        scales[place * n_scales + group] = scale;
    }
}

/// One cube per page that is written, KV head and sequence; a unit per vector of a digest's row.
#[cube(launch_unchecked, address_type = "dynamic")]
fn quantize_digests_kernel<F: Float, N: Size>(
    words: &mut Tensor<i32>,
    scales: &mut Tensor<f32>,
    digests: &Tensor<Vector<F, N>>,
    page_table: &Tensor<i32>,
    starts: &Tensor<i32>,
    lengths: &Tensor<i32>,
    #[comptime] page_size: usize,
    #[comptime] row: PackedRow,
    #[define(F)] _dtype: ElemType,
) {
    let n_pages = digests.shape(0);
    let n_kv_heads = digests.shape(1);
    let max_pages = page_table.shape(1);
    let vectors = comptime!(row.vectors);
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let mut largest = Shared::<[f32]>::new_slice(vectors);

    let start = starts[sequence] as usize;
    let page = start / page_size + CUBE_POS_X as usize;
    if max(page * page_size, start) >= lengths[sequence] as usize || page >= max_pages {
        terminate!();
    }
    let pool_page = page_table[sequence * max_pages + page] as usize;
    if pool_page >= n_pages {
        terminate!();
    }
    let digest = (pool_page * n_kv_heads + head) * 2 * vectors + unit;
    let low = Vector::<f32, N>::cast_from(digests[digest]);
    let high = Vector::<f32, N>::cast_from(digests[digest + vectors]);
    largest[unit] = largest_of::<N>(low, high, row);
    sync_cube();
    let place = head * n_pages + pool_page;
    pack::<N>(words, scales, &largest, low, high, place, unit, row);
}

/// Packs the digests of the pages of positions `starts..lengths`, of at most `tokens` tokens, anew
/// and in place.
#[allow(clippy::too_many_arguments)]
pub(crate) fn launch_quantize_digests(
    words: CubeTensor,
    scales: CubeTensor,
    digests: CubeTensor,
    page_table: CubeTensor,
    starts: CubeTensor,
    lengths: CubeTensor,
    page_size: usize,
    tokens: usize,
) -> (CubeTensor, CubeTensor) {
    assert_in_place("quantize_digests", "words of int8 digests", &words);
    assert_in_place("quantize_digests", "scales of int8 digests", &scales);
    let digests = into_contiguous(digests);
    let layout = RowLayout::of(&digests);
    let row = PackedRow::new(layout.width, layout.row_vectors());
    let n_kv_heads = digests.meta.shape()[1];
    let batch = page_table.meta.shape()[0];
    let client = digests.client.clone();
    let address = address_type(&[&words, &digests]);
    let dtype = dtype_to_storage_type(digests.dtype);
    // SAFETY: positions are masked by the lengths, pages by the page table's and the pool's size;
    // the shapes were checked before the operation was registered.
    unsafe {
        quantize_digests_kernel::launch_unchecked(
            &client,
            CubeCount::Static(
                touched_pages(tokens, page_size) as u32,
                n_kv_heads as u32,
                batch as u32,
            ),
            CubeDim::new_1d(row.vectors as u32),
            address,
            layout.width,
            words.clone().into_tensor_arg(),
            scales.clone().into_tensor_arg(),
            digests.into_tensor_arg(),
            into_contiguous(page_table).into_tensor_arg(),
            starts.into_tensor_arg(),
            lengths.into_tensor_arg(),
            page_size,
            row,
            dtype,
        );
    }
    (words, scales)
}
