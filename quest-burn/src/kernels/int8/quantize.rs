use burn::backend::cubecl::dtype_to_storage_type;
use burn_cubecl::{CubeBackend, kernel::into_contiguous};
use cubecl::prelude::*;

use super::{
    super::{
        append::{digest_vectors, touched_pages},
        args::NewPlacesArg,
        launch::address_type,
        operands::{Digests, Places},
        row::RowLayout,
    },
    pack::{PackedDigests, PackedRow, largest_of, pack, packed_arg},
};
use crate::{
    cache::CHANNELS_PER_WORD,
    digest::{KernelDigest, with_digest},
};

/// One cube per page that is written, KV head and sequence; a unit per vector of a digest's row.
#[cube(launch_unchecked, address_type = "dynamic")]
fn quantize_digests_kernel<D: KernelDigest, F: Float, N: Size>(
    packed: &mut PackedDigests,
    digests: &Tensor<Vector<F, N>>,
    places: &NewPlacesArg,
    #[comptime] page_size: usize,
    #[comptime] of_digest: usize,
    #[define(F)] _dtype: ElemType,
) {
    let n_pages = digests.shape(0);
    let n_kv_heads = digests.shape(1);
    let max_pages = places.page_table.shape(1);
    let row = comptime!(packed.row);
    let vectors = comptime!(row.vectors);
    let unit = UNIT_POS as usize;
    let head = CUBE_POS_Y as usize;
    let sequence = CUBE_POS_Z as usize;
    let mut largest = Shared::<[f32]>::new_slice(vectors);

    let start = places.starts[sequence] as usize;
    let page = start / page_size + CUBE_POS_X as usize;
    if max(page * page_size, start) >= places.lengths[sequence] as usize || page >= max_pages {
        terminate!();
    }
    let pool_page = places.page_table[sequence * max_pages + page] as usize;
    if pool_page >= n_pages {
        terminate!();
    }
    let digest = (pool_page * n_kv_heads + head) * of_digest + unit;
    let low = Vector::<f32, N>::cast_from(digests[digest]);
    let mut high = low;
    if comptime!(D::ROWS == 2) {
        high = Vector::cast_from(digests[digest + vectors]);
    }
    let mut scalar = f32::new(0.0);
    if comptime!(D::SCALAR) {
        let behind = Vector::<f32, N>::cast_from(digests[digest - unit + vectors]);
        scalar = behind.extract(0usize);
    }
    largest[unit] = largest_of::<D, N>(low, high, row);
    sync_cube();
    pack::<D, N>(
        packed,
        &largest,
        low,
        high,
        scalar,
        head * n_pages + pool_page,
        unit,
    );
}

/// Packs the digests of the pages of positions `starts..lengths`, of at most `tokens` tokens, in place.
pub(in crate::kernels) fn launch(
    digests: Digests<CubeBackend>,
    places: Places<CubeBackend>,
    page_size: usize,
    tokens: usize,
) -> Digests<CubeBackend> {
    let Digests::Int8 { words, rows, .. } = &digests else {
        return digests;
    };
    let rows = into_contiguous(rows.clone());
    let head_dim = words.meta.shape()[3] * CHANNELS_PER_WORD;
    let layout = RowLayout::with_head_dim(&rows, head_dim);
    let row = PackedRow::new(layout.width, layout.row_vectors());
    let (of_digest, _) = digest_vectors(digests.kind(), row.vectors, layout.width);
    let n_kv_heads = rows.meta.shape()[1];
    let batch = places.page_table.meta.shape()[0];
    let client = rows.client.clone();
    let address = address_type(&[words, &rows]);
    let dtype = dtype_to_storage_type(rows.dtype);
    let packed =
        packed_arg("quantize_digests", &digests, || row).expect("these are digests in 8 bits");
    // SAFETY: positions are masked by the lengths, pages by the page table's and the pool's size;
    // the shapes were checked before the operation was registered.
    with_digest!(digests.kind(), D => unsafe {
        quantize_digests_kernel::launch_unchecked::<D>(
            &client,
            CubeCount::Static(
                touched_pages(tokens, page_size) as u32,
                n_kv_heads as u32,
                batch as u32,
            ),
            CubeDim::new_1d(row.vectors as u32),
            address,
            layout.width,
            packed,
            rows.into_tensor_arg(),
            places.into_new_arg(),
            page_size,
            of_digest,
            dtype,
        );
    });
    digests
}
