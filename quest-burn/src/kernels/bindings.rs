//! How many buffers a launch binds: some devices bind few at a time.

use burn::tensor::Device;

use super::{device::binds, int8::pack::PACKED_BINDINGS};
use crate::cache::KvStorage;

/// Whether the kernels run on a device where they do at all, with keys and values in this form.
pub fn takes_rows(device: &Device, rows: KvStorage) -> bool {
    let buffers = of_append(rows, false).max(of_attention(rows));
    rows == KvStorage::Full || binds(device, buffers)
}

/// Buffers that the scales of keys and values are in.
pub(super) fn of_scales(rows: KvStorage) -> usize {
    match rows {
        KvStorage::Full => 0,
        KvStorage::Int8 => 2,
    }
}

/// Buffers of a launch that writes rows in this form, and packs digests or not.
pub(super) fn of_append(rows: KvStorage, packs: bool) -> usize {
    8 + of_scales(rows) + if packs { PACKED_BINDINGS } else { 0 }
}

/// The same of one that rotates and perhaps norms a merged projection first.
pub(super) fn of_rotate_append(rows: KvStorage, normed: bool, packs: bool) -> usize {
    of_append(rows, packs) + if normed { 2 } else { 1 }
}

/// Buffers of the attention of one query token, or of a few.
fn of_attention(rows: KvStorage) -> usize {
    9 + of_scales(rows)
}
