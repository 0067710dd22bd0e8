//! How kernels write keys and values: as they are, or rounded to 8 bits as [`Int8Rows::quantized`] rounds
//! them.
//!
//! [`Int8Rows::quantized`]: crate::cache::Int8Rows::quantized

use cubecl::prelude::*;

use crate::{
    cache::{KvStorage, LARGEST_INTEGER, MIN_SCALE},
    row_load::{Full, Int8, RowLoad, RowsArg, WORD},
};

/// The bits of infinity, above which those of no numbers are.
const INFINITY: u32 = 0x7F80_0000;
const MAGNITUDE: u32 = 0x7FFF_FFFF;

/// A form of rows as CubeCL code that writes them.
#[cube]
pub(in crate::kernels) trait RowStore: Send + Sync + 'static {
    /// The bits of the largest magnitude of a unit's vector, where a row has a scale; those of no number are
    /// above all others.
    fn largest<F: Float, N: Size>(vector: Vector<F, N>) -> u32;

    /// Writes a unit's vector of a row with this scale at a load of the pool. Gives what the row has there then.
    fn store<E: Numeric, W: Size, F: Float, N: Size>(
        rows: &mut RowsArg<E, W>,
        at: usize,
        vector: Vector<F, N>,
        scale: f32,
    ) -> Vector<f32, N>;

    /// Writes the scale of a row, where it has one; every unit must reach it.
    fn store_scale<E: Numeric, W: Size>(rows: &mut RowsArg<E, W>, row: usize, scale: f32);
}

#[cube]
impl RowStore for Full {
    fn largest<F: Float, N: Size>(_vector: Vector<F, N>) -> u32 {
        0u32.runtime()
    }

    fn store<E: Numeric, W: Size, F: Float, N: Size>(
        rows: &mut RowsArg<E, W>,
        at: usize,
        vector: Vector<F, N>,
        _scale: f32,
    ) -> Vector<f32, N> {
        rows.rows[at] = Vector::<E, W>::cast_from(vector);
        Vector::<f32, N>::cast_from(vector)
    }

    fn store_scale<E: Numeric, W: Size>(_rows: &mut RowsArg<E, W>, _row: usize, _scale: f32) {}
}

#[cube]
impl RowStore for Int8 {
    fn largest<F: Float, N: Size>(vector: Vector<F, N>) -> u32 {
        let mut largest = 0u32;
        #[unroll]
        for i in 0..WORD {
            let bits = u32::reinterpret(f32::cast_from(vector.extract(i))) & MAGNITUDE;
            largest = max(largest, bits);
        }
        largest
    }

    fn store<E: Numeric, W: Size, F: Float, N: Size>(
        rows: &mut RowsArg<E, W>,
        at: usize,
        vector: Vector<F, N>,
        scale: f32,
    ) -> Vector<f32, N> {
        let mut word = i32::new(0);
        let mut kept = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for i in 0..WORD {
            let channel = f32::cast_from(vector.extract(i));
            let rounded = (channel / scale + 0.5f32).floor();
            // Of a row that is no number the integers are 0.
            let is_number = (u32::reinterpret(rounded) & MAGNITUDE) < INFINITY;
            let integer = select(is_number, rounded, f32::new(0.0));
            let up = comptime!(8 * i as i32);
            word |= (i32::cast_from(integer) & 0xffi32) << up;
            kept.insert(i, integer * scale);
        }
        rows.rows[at] = Vector::<E, W>::new(E::cast_from(word));
        kept
    }

    fn store_scale<E: Numeric, W: Size>(rows: &mut RowsArg<E, W>, row: usize, scale: f32) {
        #[comptime]
        if let ComptimeOption::Some(scales) = &mut rows.scales {
            if UNIT_POS == 0u32 {
                scales[row] = scale;
            }
        }
    }
}

/// The scale of a row, from what [`RowStore::largest`] gives for the channels of each unit. Every unit must reach
/// it; 1 where rows have none.
#[cube]
pub(in crate::kernels) fn scale_of_row<L: RowLoad>(
    largest: u32,
    of_units: &mut Shared<[u32]>,
    #[comptime] units: usize,
) -> f32 {
    if comptime!(L::SCALED) {
        sync_cube();
        of_units[UNIT_POS as usize] = largest;
        sync_cube();
        let mut bits = 0u32;
        for unit in 0..units {
            bits = max(bits, of_units[unit]);
        }
        let largest = f32::reinterpret(bits);
        let scale = max(largest / LARGEST_INTEGER, f32::new(MIN_SCALE));
        select(bits > INFINITY, largest, scale)
    } else {
        f32::new(1.0)
    }
}

/// Entries of the memory that [`scale_of_row`] takes.
pub(in crate::kernels) fn scale_entries<L: RowLoad>(units: usize) -> usize {
    if L::SCALED { units } else { 1 }
}

/// Channels of a unit's vector of a row, and what is stored for them; of new rows with vectors of `width`
/// channels.
pub(in crate::kernels) fn stored_widths(rows: KvStorage, width: usize) -> (usize, usize) {
    match rows {
        KvStorage::Full => (width, width),
        KvStorage::Int8 => (WORD, 1),
    }
}
