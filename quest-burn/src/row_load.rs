//! How kernels read keys and values: whole ([`Full`]), or in 8 bits with a scale for each row ([`Int8`]).
//!
//! Kernels are generic over [`RowLoad`]. A load is a vector of what is stored: channels, or words of four
//! channels each, the first of them in the lowest byte.

use cubecl::prelude::*;

/// Channels of a word.
pub(crate) const WORD: usize = size_of::<i32>();
/// The bits of 2^23, and what a byte is more than its integer once it is in the lowest bits of that and its
/// sign is turned.
const EXPONENT: i32 = 0x4B00_0000;
const SIGN: i32 = 0x80;
const OFFSET: f32 = (1 << 23) as f32 + SIGN as f32;

/// Keys or values of a pool.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct RowsArg<E: Numeric, W: Size> {
    /// `[n_pages, n_kv_heads, page_size, loads]`
    pub rows: OwnedTensor<Vector<E, W>>,
    /// What the integers of a row are multiplied by, `[n_pages, n_kv_heads, page_size, 1]`.
    pub scales: ComptimeOption<OwnedTensor<f32>>,
}

/// A form of rows as CubeCL code.
#[cube]
pub(crate) trait RowLoad: Send + Sync + 'static {
    /// Whether rows have scales.
    const SCALED: bool;

    /// The scale of a row; 1 where rows have none.
    fn scale<E: Numeric, W: Size>(rows: &RowsArg<E, W>, row: usize) -> f32;

    /// The channels of the `piece`-th part of a load, before they are multiplied by the row's scale. A load
    /// is one part, or as many as it has words.
    fn channels<E: Numeric, W: Size, N: Size>(
        load: Vector<E, W>,
        #[comptime] piece: usize,
    ) -> Vector<f32, N>;

    /// The same for a single channel of a load, in a dtype that holds integers of 8 bits exactly.
    fn channel<E: Numeric, W: Size, F: Float>(load: Vector<E, W>, #[comptime] index: usize) -> F;
}

/// In the dtype of the cache.
pub(crate) struct Full;

#[cube]
impl RowLoad for Full {
    const SCALED: bool = false;

    fn scale<E: Numeric, W: Size>(_rows: &RowsArg<E, W>, _row: usize) -> f32 {
        f32::new(1.0)
    }

    fn channels<E: Numeric, W: Size, N: Size>(
        load: Vector<E, W>,
        #[comptime] _piece: usize,
    ) -> Vector<f32, N> {
        Vector::<f32, N>::cast_from(load)
    }

    fn channel<E: Numeric, W: Size, F: Float>(load: Vector<E, W>, #[comptime] index: usize) -> F {
        F::cast_from(load.extract(index))
    }
}

/// In 8 bits.
pub(crate) struct Int8;

/// The `index`-th integer of a word.
#[cube]
fn integer(word: i32, #[comptime] index: usize) -> f32 {
    let shifted = if comptime!(index == 0) {
        word
    } else {
        word >> comptime!(8 * index as i32)
    };
    // Exact: integers below 2^24.
    f32::reinterpret((shifted & 0xffi32) ^ comptime!(EXPONENT | SIGN)) - OFFSET
}

#[cube]
impl RowLoad for Int8 {
    const SCALED: bool = true;

    fn scale<E: Numeric, W: Size>(rows: &RowsArg<E, W>, row: usize) -> f32 {
        let mut scale = f32::new(1.0);
        #[comptime]
        if let ComptimeOption::Some(scales) = &rows.scales {
            scale = scales[row];
        }
        scale
    }

    fn channels<E: Numeric, W: Size, N: Size>(
        load: Vector<E, W>,
        #[comptime] piece: usize,
    ) -> Vector<f32, N> {
        let word = i32::reinterpret(load.extract(piece));
        let mut channels = Vector::<f32, N>::new(0.0f32);
        #[unroll]
        for i in 0..WORD {
            channels.insert(i, integer(word, i));
        }
        channels
    }

    fn channel<E: Numeric, W: Size, F: Float>(load: Vector<E, W>, #[comptime] index: usize) -> F {
        let word = i32::reinterpret(load.extract(comptime!(index / WORD)));
        F::cast_from(integer(word, comptime!(index % WORD)))
    }
}

/// The only part of a load, as the row has it.
#[cube]
pub(crate) fn widened<L: RowLoad, E: Numeric, W: Size, N: Size>(
    load: Vector<E, W>,
    scale: f32,
) -> Vector<f32, N> {
    let channels = L::channels::<E, W, N>(load, 0usize);
    if comptime!(L::SCALED) {
        channels * Vector::<f32, N>::new(scale)
    } else {
        channels
    }
}
