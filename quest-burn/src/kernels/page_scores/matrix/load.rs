//! How lanes of matrix instructions load rows of digests, and what registers loads become.

use cubecl::prelude::*;

use super::{
    super::load::{DigestLoad, DigestsArg, Full, Int8},
    LANES, MatrixScores, PACKED,
};

/// Elements of a load of whole rows.
pub(super) const FULL_WIDTH: usize = 8;
/// Words of a load of bytes.
pub(super) const INT8_WIDTH: usize = 2;

/// A form of storage whose rows four lanes load, 8 channels at a time, the channels of two
/// instructions.
#[cube]
pub(super) trait MatrixLoad: DigestLoad + MatrixOrder {
    /// The first vector of a page's digest, and its first scale.
    fn place<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        pool_page: usize,
        head: usize,
        #[comptime] shape: MatrixScores,
    ) -> (usize, usize);

    /// What the sums over a load's channels are multiplied by, where storage has scales: of the
    /// `lane`-th load of a row.
    fn scale<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        first_scale: usize,
        lane: usize,
        #[comptime] shape: MatrixScores,
    ) -> f32;

    /// The number for all channels of a digest, of a kind that has one.
    fn scalar<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        place: (usize, usize),
        #[comptime] shape: MatrixScores,
    ) -> f32;

    /// The registers of one of a load's two instructions.
    fn registers<F: Float, P: Size, E: Numeric, N: Size>(
        load: Vector<E, N>,
        #[comptime] instruction: usize,
    ) -> Array<Vector<F, P>>;
}

/// In which order registers have the channels of a load.
pub(super) trait MatrixOrder {
    /// Whether sums over a load's channels are multiplied by a scale.
    const SCALED: bool;

    /// The channel of a load that an instruction's register has at a place.
    fn channel(instruction: usize, register: usize, place: usize) -> usize;
}

impl MatrixOrder for Full {
    const SCALED: bool = false;

    fn channel(instruction: usize, register: usize, place: usize) -> usize {
        4 * instruction + PACKED * register + place
    }
}

#[cube]
impl MatrixLoad for Full {
    fn place<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        pool_page: usize,
        head: usize,
        #[comptime] shape: MatrixScores,
    ) -> (usize, usize) {
        let first = (pool_page * digests.rows.shape(1) + head) * shape.digest;
        (first, first)
    }

    fn scale<E: Numeric, N: Size>(
        _digests: &DigestsArg<E, N>,
        _first_scale: usize,
        _lane: usize,
        #[comptime] _shape: MatrixScores,
    ) -> f32 {
        f32::new(1.0)
    }

    fn scalar<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        place: (usize, usize),
        #[comptime] shape: MatrixScores,
    ) -> f32 {
        let behind = digests.rows[place.0 + comptime!(shape.row())];
        f32::cast_from(behind.extract(0usize))
    }

    fn registers<F: Float, P: Size, E: Numeric, N: Size>(
        load: Vector<E, N>,
        #[comptime] instruction: usize,
    ) -> Array<Vector<F, P>> {
        let mut registers = Array::<Vector<F, P>>::new(2usize);
        #[unroll]
        for register in 0..2usize {
            let mut pair = Vector::<F, P>::new(F::new(0.0));
            #[unroll]
            for place in 0..PACKED {
                let channel =
                    comptime!(<Full as MatrixOrder>::channel(instruction, register, place));
                pair.insert(place, F::cast_from(load.extract(channel)));
            }
            registers[register] = pair;
        }
        registers
    }
}

impl MatrixOrder for Int8 {
    const SCALED: bool = true;

    /// Bytes become numbers two at a time, those of a word that are 16 bits apart.
    fn channel(instruction: usize, register: usize, place: usize) -> usize {
        4 * instruction + register + 2 * place
    }
}

#[cube]
impl MatrixLoad for Int8 {
    fn place<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        pool_page: usize,
        head: usize,
        #[comptime] shape: MatrixScores,
    ) -> (usize, usize) {
        let place = head * digests.rows.shape(1) + pool_page;
        let mut first_scale = place;
        #[comptime]
        if let ComptimeOption::Some(scales) = &digests.scales {
            first_scale = place * scales.shape(2);
        }
        (place * shape.digest, first_scale)
    }

    fn scale<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        first_scale: usize,
        lane: usize,
        #[comptime] shape: MatrixScores,
    ) -> f32 {
        let mut scale = f32::new(1.0);
        #[comptime]
        if let ComptimeOption::Some(scales) = &digests.scales {
            scale = scales[first_scale + min(lane, comptime!(shape.vectors() - 1))];
        }
        scale
    }

    fn scalar<E: Numeric, N: Size>(
        digests: &DigestsArg<E, N>,
        place: (usize, usize),
        #[comptime] shape: MatrixScores,
    ) -> f32 {
        let mut scalar = f32::new(0.0);
        #[comptime]
        if let ComptimeOption::Some(scales) = &digests.scales {
            scalar = scales[place.1 + comptime!(shape.vectors())];
        }
        scalar
    }

    /// Under the exponent of 1024 a byte with its sign turned over is the number 1024 + 128 + what it
    /// stands for.
    fn registers<F: Float, P: Size, E: Numeric, N: Size>(
        load: Vector<E, N>,
        #[comptime] instruction: usize,
    ) -> Array<Vector<F, P>> {
        let word = i32::reinterpret(load.extract(instruction));
        let offset = Vector::<F, P>::new(F::new(1152.0));
        let mut registers = Array::<Vector<F, P>>::new(2usize);
        #[unroll]
        for register in 0..2usize {
            let bytes = (word >> comptime!(8 * register as i32)) & 0x00FF_00FFi32;
            registers[register] = Vector::<F, P>::reinterpret(bytes ^ 0x6480_6480i32) - offset;
        }
        registers
    }
}

/// Lanes that share a row load 8 channels each, one after the other: the vector of a row that a lane
/// loads as its `load`-th.
pub(super) fn vector_of(load: usize) -> usize {
    load * LANES
}
