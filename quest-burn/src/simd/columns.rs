//! Keys and values of a block as the products of a prompt read them.

use macerator::Simd;

use super::{
    element::{Widen, widen_row},
    lanes::{Floats, flat, splat, width},
};

/// A row of a pool, or no elements for zeros.
#[derive(Clone, Copy)]
pub(super) struct Row<'a, E> {
    pub elements: &'a [E],
    pub scale: f32,
}

impl<E: Widen> Row<'_, E> {
    pub(super) fn nothing() -> Self {
        Self {
            elements: &[],
            scale: 1.0,
        }
    }

    /// Two vectors of channels from `first` on; after the end come zeros.
    #[inline(always)]
    fn widen<S: Simd>(self, first: usize, wide: &mut [Floats<S>; 2]) {
        let left = self.elements.len().saturating_sub(first);
        if left == 0 {
            *wide = [splat::<S>(0.0); 2];
            return;
        }
        let n = left.min(width::<S>());
        widen_row::<S, E>(&self.elements[first..first + n], wide);
        if E::SCALED {
            let scale = splat::<S>(self.scale);
            *wide = [wide[0] * scale, wide[1] * scale];
        }
    }
}

/// Writes a key, or zeros, into its lane of the transposed keys.
#[inline(always)]
pub(super) fn lay_out_key<S: Simd, E: Widen>(
    row: Row<'_, E>,
    key: usize,
    depth: usize,
    columns: &mut [[Floats<S>; 2]],
) {
    let width = width::<S>();
    let mut wide = [splat::<S>(0.0); 2];
    let column = &mut columns[key / width * depth..][..depth];
    let column: &mut [f32] = bytemuck::cast_slice_mut(column);
    for first in (0..depth).step_by(width) {
        row.widen(first, &mut wide);
        for (i, &x) in flat(&wide).iter().enumerate() {
            column[(first + i) * width + key % width] = x;
        }
    }
}

/// Writes a value row, or zeros, into its place in each column of `n_keys` rows.
#[inline(always)]
pub(super) fn lay_out_value<S: Simd, E: Widen>(
    row: Row<'_, E>,
    key: usize,
    n_keys: usize,
    columns: &mut [[Floats<S>; 2]],
) {
    let width = width::<S>();
    for (i, column) in columns.chunks_exact_mut(n_keys).enumerate() {
        row.widen(i * width, &mut column[key]);
    }
}
