//! Weights that are integers with scales.

use super::{
    level::{LANES, Level},
    lhs::{LhsBytes, Part},
    product::TILE,
    weights::Groups,
};
use crate::blocks::{Integers, PART};

/// Rows of weights whose parts of 32 are integers with scales.
pub(super) trait IntegerRows: Copy + Send + Sync {
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
pub(super) struct BlockRows<'a, F> {
    bytes: &'a [u8],
    blocks: usize,
    format: core::marker::PhantomData<F>,
}

impl<'a, F: Integers> BlockRows<'a, F> {
    pub(super) fn new(bytes: &'a [u8], d_input: usize) -> Self {
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

/// Words of `BITS` bits with the scales of groups next to them; `ZEROS` where there are zero points.
#[derive(Clone, Copy)]
pub(super) struct GroupRows<'a, const BITS: usize, const ZEROS: bool> {
    groups: Groups<'a>,
    parts: usize,
    parts_per_group: usize,
    groups_per_row: usize,
}

impl<'a, const BITS: usize, const ZEROS: bool> GroupRows<'a, BITS, ZEROS> {
    const PART_BYTES: usize = PART * BITS / 8;

    pub(super) fn new(groups: Groups<'a>, d_input: usize) -> Self {
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
pub(super) fn widen<L: Level, W: IntegerRows>(weights: &W, row: usize, output: &mut [f32]) {
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

/// Sums of a row, so that an addition need not wait for the one before.
const CHAINS: usize = 2;

/// Products of [`TILE`] weight rows with `M` LHS rows.
///
/// A weight row is read to its end before the next one, as the processor foresees one stream of neighbours.
#[inline(always)]
pub(super) fn tile<L: Level, W: IntegerRows, const M: usize>(
    weights: &W,
    rows: [usize; TILE],
    lhs: &LhsBytes,
    first_lhs: usize,
) -> [[f32; M]; TILE] {
    let mut lefts: [&[Part]; M] = [&[]; M];
    for (m, parts) in lefts.iter_mut().enumerate() {
        *parts = lhs.row(first_lhs + m);
    }
    let mut products = [[0.0; M]; TILE];
    for (products, row) in products.iter_mut().zip(rows) {
        let blocks = lefts[0].len() / W::PARTS;
        let mut sums = Sums::<L, M> {
            products: [[L::zeros(); M]; CHAINS],
            minima: [[0.0; M]; CHAINS],
        };
        for pair in 0..blocks / CHAINS {
            sums.add::<W>(weights, row, pair * CHAINS, 0, &lefts);
            sums.add::<W>(weights, row, pair * CHAINS + 1, 1, &lefts);
        }
        if blocks % CHAINS == 1 {
            sums.add::<W>(weights, row, blocks - 1, 0, &lefts);
        }
        let ones = L::floats(&[1.0; LANES]);
        for (m, product) in products.iter_mut().enumerate() {
            let [first, second] = sums.products;
            *product = L::sum(L::multiply_add(ones, first[m], second[m]));
            *product += sums.minima[0][m] + sums.minima[1][m];
        }
    }
    products
}

/// Sums of one weight row with `M` LHS rows.
struct Sums<L: Level, const M: usize> {
    products: [[L::Floats; M]; CHAINS],
    /// What is added to weights, times the sums of parts.
    minima: [[f32; M]; CHAINS],
}

impl<L: Level, const M: usize> Sums<L, M> {
    /// Adds the products of a block; neighbouring parts belong to the chains in turn.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "a part is one of the weights and of each LHS row"
    )]
    fn add<W: IntegerRows>(
        &mut self,
        weights: &W,
        row: usize,
        block: usize,
        chain: usize,
        lhs: &[&[Part]; M],
    ) {
        let bytes = weights.block(row, block);
        let scales = weights.scales::<L>(row, block, bytes);
        for part in 0..W::PARTS {
            let integers = W::integers(bytes, part);
            let [first, second] = W::scale(&scales, part);
            let chain = (chain + part) % CHAINS;
            for m in 0..M {
                let x = &lhs[m][block * W::PARTS..][..W::PARTS][part];
                let scale = [first * x.scale, second * x.scale];
                let sum = &mut self.products[chain][m];
                *sum = if W::WIDE {
                    L::scale_add(L::dot::<true>(&integers, &x.values, &x.start), scale, *sum)
                } else {
                    L::scale_add(L::dot::<false>(&integers, &x.values, &x.start), scale, *sum)
                };
                if W::MINIMA {
                    self.minima[chain][m] += W::minimum(&scales, part) * x.sum;
                }
            }
        }
    }
}

const _: () = assert!(LANES * 4 == PART);
