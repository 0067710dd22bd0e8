use burn::{
    backend::Dispatch,
    tensor::{DType, Device, Int, Tensor},
};

use super::{
    super::{
        append,
        check::{check_append, check_rotate_append},
        device::binds,
        rotate_append::{self, norm_arguments},
    },
    check_packed,
};
use crate::{digest::DigestKind, ops::int8_extension::Int8Ops};

/// Whether [`int8_append`] runs on a device where the kernels do: some bind few buffers at a time.
/// On those [`append`](super::super::append()) and [`quantize_digests`](super::quantize_digests) do
/// the same in two launches.
pub fn int8_appends(device: &Device) -> bool {
    binds(device, append::INT8_BINDINGS)
}

/// Whether [`int8_rotate_append`] runs on a device where the kernels do, as [`int8_appends`] says
/// of [`int8_append`].
pub fn int8_rotates(device: &Device, normed: bool) -> bool {
    binds(device, rotate_append::int8_bindings(normed))
}

/// [`append`](super::super::append()) that also packs the digests of the pages that it writes, in
/// the same launch, exactly as [`quantize_digests`](super::quantize_digests) does.
///
/// # Shapes
///
/// - words, scales: as in `quantize_digests`; the rest as in `append`
/// - output: the pools, and words and scales
///
/// # Panics
///
/// As the two operations, and where [`int8_appends`] says no.
#[allow(clippy::type_complexity)]
pub fn int8_append(
    (keys, values, digests): (Tensor<4>, Tensor<4>, Tensor<4>),
    (words, scales): (Tensor<4, Int>, Tensor<3>),
    digest: DigestKind,
    new_keys: Tensor<4>,
    new_values: Tensor<4>,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
) -> (
    (Tensor<4>, Tensor<4>, Tensor<4>),
    (Tensor<4, Int>, Tensor<3>),
) {
    let [n_pages, n_kv_heads, _, head_dim] = keys.dims();
    let [batch, _, tokens, _] = new_keys.dims();
    check_append(
        (&keys, &values, &digests),
        digest,
        (&new_keys, &new_values),
        (&page_table, &starts, &lengths),
    );
    check_packed(&words, &scales, digest, [n_pages, n_kv_heads, head_dim]);
    assert!(
        int8_appends(&keys.device()),
        "append with int8 digests: expected a device that binds {} buffers at a time, found {:?}",
        append::INT8_BINDINGS,
        keys.device()
    );
    if batch == 0 || tokens == 0 {
        return ((keys, values, digests), (words, scales));
    }
    let (keys, values, digests, words, scales) = Dispatch::int8_append(
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        words.into_dispatch(),
        scales.into_dispatch(),
        digest,
        new_keys.into_dispatch(),
        new_values.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
    );
    (
        (
            Tensor::from_dispatch(keys),
            Tensor::from_dispatch(values),
            Tensor::from_dispatch(digests),
        ),
        (Tensor::from_dispatch(words), Tensor::from_dispatch(scales)),
    )
}

/// [`rotate_append`](super::super::rotate_append()) that also packs the digests of the pages that it
/// writes, in the same launch, exactly as [`quantize_digests`](super::quantize_digests) does.
///
/// # Shapes
///
/// - words, scales: as in `quantize_digests`; the rest as in `rotate_append`
/// - output: the pools, words and scales, and the queries
///
/// # Panics
///
/// As the two operations, and where [`int8_rotates`] says no.
#[allow(clippy::type_complexity)]
pub fn int8_rotate_append(
    (keys, values, digests): (Tensor<4>, Tensor<4>, Tensor<4>),
    (words, scales): (Tensor<4, Int>, Tensor<3>),
    digest: DigestKind,
    qkv: Tensor<4>,
    norms: Option<(Tensor<2>, f64)>,
    rotations: Tensor<3>,
    page_table: Tensor<2, Int>,
    starts: Tensor<1, Int>,
    lengths: Tensor<1, Int>,
) -> (
    (Tensor<4>, Tensor<4>, Tensor<4>),
    (Tensor<4, Int>, Tensor<3>),
    Tensor<4>,
) {
    let [n_pages, n_kv_heads, _, head_dim] = keys.dims();
    check_rotate_append(
        (&keys, &values, &digests),
        digest,
        (&qkv, norms.as_ref(), &rotations),
        (&page_table, &starts, &lengths),
    );
    check_packed(&words, &scales, digest, [n_pages, n_kv_heads, head_dim]);
    let normed = norms.is_some();
    assert!(
        int8_rotates(&keys.device(), normed),
        "rotate_append with int8 digests: expected a device that binds {} buffers at a time, \
         found {:?}",
        rotate_append::int8_bindings(normed),
        keys.device()
    );
    let (gammas, epsilon) = norm_arguments(norms, &qkv);
    let (keys, values, digests, words, scales, query) = Dispatch::int8_rotate_append(
        keys.into_dispatch(),
        values.into_dispatch(),
        digests.into_dispatch(),
        words.into_dispatch(),
        scales.into_dispatch(),
        digest,
        qkv.into_dispatch(),
        gammas,
        rotations.into_dispatch(),
        page_table.cast(DType::I32).into_dispatch(),
        starts.cast(DType::I32).into_dispatch(),
        lengths.cast(DType::I32).into_dispatch(),
        normed,
        epsilon,
    );
    (
        (
            Tensor::from_dispatch(keys),
            Tensor::from_dispatch(values),
            Tensor::from_dispatch(digests),
        ),
        (Tensor::from_dispatch(words), Tensor::from_dispatch(scales)),
        Tensor::from_dispatch(query),
    )
}
