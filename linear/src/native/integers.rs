//! Weights that are integers with scales.

use super::{
    left::{Left, Part},
    level::{LANES, Level},
    product::TILE,
    weights::Groups,
};
use crate::blocks::{Integers, PART};

/// Rows of weights whose parts of 32 are integers with scales.
pub trait IntegerRows: Copy + Send + Sync {
    /// Parts that are read together.
    const PARTS: usize;
    /// What is subtracted from every integer.
    const OFFSET: u8;
    /// Whether integers have more than 7 bits.
    const WIDE: bool;
    /// Whether something is added to the weights of a part.
    const MINIMA: bool;

    /// What the scales of parts that are read together are made of.
    type Scales: Copy;
    /// Parts that are read together.
    type Block: Copy;

    fn block(&self, row: usize, block: usize) -> Self::Block;
    fn scales<L: Level>(&self, row: usize, block: usize, bytes: Self::Block) -> Self::Scales;
    fn scale(scales: &Self::Scales, part: usize) -> [f32; 2];
    fn minimum(scales: &Self::Scales, part: usize) -> f32;
    fn integers(block: Self::Block, part: usize) -> [u8; PART];
}

/// Blocks as they lie in a file.
#[derive(Clone, Copy)]
pub struct BlockRows<'a, F> {
    bytes: &'a [u8],
    blocks: usize,
    format: core::marker::PhantomData<F>,
}

impl<'a, F: Integers> BlockRows<'a, F> {
    pub fn new(bytes: &'a [u8], d_input: usize) -> Self {
        Self {
            bytes,
            blocks: d_input / (F::PARTS * PART),
            format: core::marker::PhantomData,
        }
    }
}

impl<'a, F: Integers> IntegerRows for BlockRows<'a, F> {
    const PARTS: usize = F::PARTS;
    const OFFSET: u8 = F::OFFSET;
    const WIDE: bool = F::WIDE;
    const MINIMA: bool = F::MINIMA;

    type Scales = F::Scales;
    type Block = &'a [u8];

    #[inline(always)]
    fn block(&self, row: usize, block: usize) -> &'a [u8] {
        &self.bytes[(row * self.blocks + block) * F::BYTES..][..F::BYTES]
    }

    #[inline(always)]
    fn scales<L: Level>(&self, _row: usize, _block: usize, bytes: &'a [u8]) -> F::Scales {
        F::scales(bytes, L::half)
    }

    #[inline(always)]
    fn scale(scales: &F::Scales, part: usize) -> [f32; 2] {
        F::scale(scales, part)
    }

    #[inline(always)]
    fn minimum(scales: &F::Scales, part: usize) -> f32 {
        F::minimum(scales, part)
    }

    #[inline(always)]
    fn integers(block: &'a [u8], part: usize) -> [u8; PART] {
        F::integers(block, part)
    }
}

/// Words of `BITS` bits with the scales of groups beside them; `ZEROS` where there are zero points.
#[derive(Clone, Copy)]
pub struct GroupRows<'a, const BITS: usize, const ZEROS: bool> {
    groups: Groups<'a>,
    parts: usize,
    parts_per_group: usize,
    groups_per_row: usize,
}

impl<'a, const BITS: usize, const ZEROS: bool> GroupRows<'a, BITS, ZEROS> {
    const PART_BYTES: usize = PART * BITS / 8;

    pub fn new(groups: Groups<'a>, d_input: usize) -> Self {
        Self {
            groups,
            parts: d_input / PART,
            parts_per_group: groups.group / PART,
            groups_per_row: d_input / groups.group,
        }
    }
}

impl<'a, const BITS: usize, const ZEROS: bool> IntegerRows for GroupRows<'a, BITS, ZEROS> {
    const PARTS: usize = 1;
    const OFFSET: u8 = if ZEROS { 0 } else { 1 << (BITS - 1) };
    const WIDE: bool = BITS == 8;
    const MINIMA: bool = ZEROS;

    type Scales = [f32; 2];
    type Block = &'a [u8];

    #[inline(always)]
    fn block(&self, row: usize, block: usize) -> &'a [u8] {
        &self.groups.bytes[(row * self.parts + block) * Self::PART_BYTES..][..Self::PART_BYTES]
    }

    #[inline(always)]
    fn scales<L: Level>(&self, row: usize, block: usize, _bytes: &'a [u8]) -> [f32; 2] {
        let at = row * self.groups_per_row + block / self.parts_per_group;
        let scale = self.groups.scales[at];
        match self.groups.zeros {
            Some(zeros) if ZEROS => [scale, -zeros[at] * scale],
            _ => [scale, 0.0],
        }
    }

    #[inline(always)]
    fn scale(scales: &[f32; 2], _part: usize) -> [f32; 2] {
        [scales[0]; 2]
    }

    #[inline(always)]
    fn minimum(scales: &[f32; 2], _part: usize) -> f32 {
        scales[1]
    }

    #[inline(always)]
    fn integers(block: &'a [u8], _part: usize) -> [u8; PART] {
        let mut integers = [0; PART];
        if BITS == 8 {
            integers.copy_from_slice(block);
        } else {
            for (pair, byte) in integers.chunks_exact_mut(2).zip(block) {
                pair[0] = byte & 0xf;
                pair[1] = byte >> 4;
            }
        }
        integers
    }
}

/// Runs a piece of code with the rows of weights that are integers.
macro_rules! with_integer_rows {
    ($weights:expr, $d_input:expr, $rows:ident => $body:expr) => {{
        use $crate::native::{integers, weights};
        match $weights {
            weights::Weights::Blocks { format, bytes } => {
                $crate::blocks::with_integers!(format, F => {
                    let $rows = integers::BlockRows::<F>::new(bytes, $d_input);
                    $body
                })
            }
            weights::Weights::Groups(groups) => match (groups.bits, groups.zeros) {
                (4, None) => {
                    let $rows = integers::GroupRows::<4, false>::new(groups, $d_input);
                    $body
                }
                (4, Some(_)) => {
                    let $rows = integers::GroupRows::<4, true>::new(groups, $d_input);
                    $body
                }
                (_, None) => {
                    let $rows = integers::GroupRows::<8, false>::new(groups, $d_input);
                    $body
                }
                (_, Some(_)) => {
                    let $rows = integers::GroupRows::<8, true>::new(groups, $d_input);
                    $body
                }
            },
            weights => unreachable!("{weights:?} are no integers"),
        }
    }};
}
pub(super) use with_integer_rows;

/// Widens a weight row.
#[inline(always)]
pub fn widen<L: Level, W: IntegerRows>(weights: &W, row: usize, output: &mut [f32]) {
    for (block, output) in output.chunks_exact_mut(W::PARTS * PART).enumerate() {
        let bytes = weights.block(row, block);
        let scales = weights.scales::<L>(row, block, bytes);
        for (part, output) in output.chunks_exact_mut(PART).enumerate() {
            let integers = W::integers(bytes, part);
            let scale = W::scale(&scales, part);
            let minimum = W::minimum(&scales, part);
            for (i, (output, integer)) in output.iter_mut().zip(integers).enumerate() {
                let value = (i32::from(integer) - i32::from(W::OFFSET)) as f32;
                *output = value * scale[i / (PART / 2)];
                if W::MINIMA {
                    *output += minimum;
                }
            }
        }
    }
}

/// Products of [`TILE`] weight rows with `M` rows of the left side.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "a part is one of the weights and of each left side"
)]
pub fn tile<L: Level, W: IntegerRows, const M: usize>(
    weights: &W,
    rows: [usize; TILE],
    left: &Left,
    first_left: usize,
) -> [[f32; M]; TILE] {
    let left: [&[Part]; M] = core::array::from_fn(|m| left.row(first_left + m));
    let parts = left[0].len();
    let mut sums = [[L::zeros(); M]; TILE];
    let mut minima = [[0.0_f32; M]; TILE];
    for block in 0..parts / W::PARTS {
        let left: [&[Part]; M] = core::array::from_fn(|m| &left[m][block * W::PARTS..][..W::PARTS]);
        for t in 0..TILE {
            let bytes = weights.block(rows[t], block);
            let scales = weights.scales::<L>(rows[t], block, bytes);
            for part in 0..W::PARTS {
                let integers = W::integers(bytes, part);
                let scale = W::scale(&scales, part);
                for m in 0..M {
                    let x = &left[m][part];
                    let scale = scale.map(|scale| scale * x.scale);
                    sums[t][m] = if W::WIDE {
                        let products = L::dot::<true>(&integers, &x.values, &x.start);
                        L::scale_add(products, scale, sums[t][m])
                    } else {
                        let products = L::dot::<false>(&integers, &x.values, &x.start);
                        L::scale_add(products, scale, sums[t][m])
                    };
                    if W::MINIMA {
                        minima[t][m] += W::minimum(&scales, part) * x.sum;
                    }
                }
            }
        }
    }
    core::array::from_fn(|t| core::array::from_fn(|m| L::sum(sums[t][m]) + minima[t][m]))
}

const _: () = assert!(LANES * 4 == PART);
