//! Weights that are integers with scales.

use super::{
    level::{LANES, Level},
    lhs::{EIGHT, LhsBytes, LhsRow, Part},
    product::TILE,
    unpack::Unpack,
    weights::Groups,
};
use crate::blocks::PART;

/// Rows of weights whose parts of 32 are integers with scales.
pub(super) trait IntegerRows: Copy + Send + Sync {
    /// What is subtracted from every integer.
    const OFFSET: u8;
    /// Whether integers have more than 7 bits.
    const WIDE: bool;
    /// Whether something is added to the weights of a part.
    const MINIMA: bool;
    /// Whether the halves of a part have scales of their own.
    const HALVES: bool;

    /// The bytes of the `eight`-th eight parts of a row, of which there may be fewer.
    fn eight(&self, row: usize, eight: usize) -> &[u8];
    /// What these parts have besides their integers.
    fn numbers<L: Level>(&self, row: usize, eight: usize, bytes: &[u8]) -> Numbers<L>;
    /// The integers of the `i`-th of these parts.
    fn part<L: Level>(bytes: &[u8], i: usize) -> L::Bytes;
}

/// Of eight parts; what a row does not have is finite.
#[derive(Clone, Copy)]
pub(super) struct Numbers<L: Level> {
    /// Of the first and the last 16 weights.
    pub scales: [L::Floats; 2],
    /// What is added to weights.
    pub minima: L::Floats,
}

/// Blocks as they lie in a file.
#[derive(Clone, Copy)]
pub(super) struct BlockRows<'a, F> {
    bytes: &'a [u8],
    blocks: usize,
    format: core::marker::PhantomData<F>,
}

impl<'a, F: Unpack> BlockRows<'a, F> {
    pub(super) fn new(bytes: &'a [u8], d_input: usize) -> Self {
        Self {
            bytes,
            blocks: d_input / (F::PARTS * PART),
            format: core::marker::PhantomData,
        }
    }
}

impl<F: Unpack> IntegerRows for BlockRows<'_, F> {
    const OFFSET: u8 = F::OFFSET;
    const WIDE: bool = F::WIDE;
    const MINIMA: bool = F::MINIMA;
    const HALVES: bool = F::HALVES;

    #[inline(always)]
    fn eight(&self, row: usize, eight: usize) -> &[u8] {
        let per_eight = EIGHT / F::PARTS;
        let first = eight * per_eight;
        let bytes = &self.bytes[(row * self.blocks + first) * F::BYTES..];
        // The compiler knows the length of a whole eight.
        match self.blocks - first {
            left if left >= per_eight => &bytes[..per_eight * F::BYTES],
            left => &bytes[..left * F::BYTES],
        }
    }

    #[inline(always)]
    fn numbers<L: Level>(&self, _row: usize, _eight: usize, bytes: &[u8]) -> Numbers<L> {
        F::numbers(bytes)
    }

    #[inline(always)]
    fn part<L: Level>(bytes: &[u8], i: usize) -> L::Bytes {
        F::part::<L>(&bytes[i / F::PARTS * F::BYTES..][..F::BYTES], i % F::PARTS)
    }
}

/// Words of `BITS` bits with the scales of groups next to them; `ZEROS` where there are zero points.
#[derive(Clone, Copy)]
pub(super) struct GroupRows<'a, const BITS: usize, const ZEROS: bool> {
    groups: Groups<'a>,
    parts: usize,
    parts_per_group: usize,
    /// Where the parts of a group are a power of two: which one.
    shift: Option<u32>,
    groups_per_row: usize,
}

impl<'a, const BITS: usize, const ZEROS: bool> GroupRows<'a, BITS, ZEROS> {
    const PART_BYTES: usize = PART * BITS / 8;

    pub(super) fn new(groups: Groups<'a>, d_input: usize) -> Self {
        let parts_per_group = groups.group / PART;
        Self {
            groups,
            parts: d_input / PART,
            parts_per_group,
            shift: (parts_per_group.is_power_of_two()).then(|| parts_per_group.trailing_zeros()),
            groups_per_row: d_input / groups.group,
        }
    }

    /// The group that a part is in. A division takes as long as the products of a part.
    #[inline(always)]
    fn group_of(&self, part: usize) -> usize {
        match self.shift {
            Some(shift) => part >> shift,
            None => part / self.parts_per_group,
        }
    }
}

impl<const BITS: usize, const ZEROS: bool> IntegerRows for GroupRows<'_, BITS, ZEROS> {
    const OFFSET: u8 = if ZEROS { 0 } else { 1 << (BITS - 1) };
    const WIDE: bool = BITS == 8;
    const MINIMA: bool = ZEROS;
    const HALVES: bool = false;

    #[inline(always)]
    fn eight(&self, row: usize, eight: usize) -> &[u8] {
        let first = eight * EIGHT;
        let bytes = &self.groups.bytes[(row * self.parts + first) * Self::PART_BYTES..];
        // The compiler knows the length of a whole eight.
        match self.parts - first {
            left if left >= EIGHT => &bytes[..EIGHT * Self::PART_BYTES],
            left => &bytes[..left * Self::PART_BYTES],
        }
    }

    #[inline(always)]
    fn numbers<L: Level>(&self, row: usize, eight: usize, _bytes: &[u8]) -> Numbers<L> {
        let own = &self.groups.scales[row * self.groups_per_row..][..self.groups_per_row];
        let zeros = (self.groups.zeros.filter(|_| ZEROS))
            .map(|zeros| &zeros[row * self.groups_per_row..][..self.groups_per_row]);
        let of_group = |group: usize| {
            let minimum = zeros.map_or(0.0, |zeros| -zeros[group] * own[group]);
            (own[group], minimum)
        };
        let (mut scales, mut minima) = ([0.0; EIGHT], [0.0; EIGHT]);
        let first = eight * EIGHT;
        let parts = EIGHT.min(self.parts - first);
        if self.parts_per_group.is_multiple_of(FOUR) {
            // As groups of 128 are.
            for half in 0..parts.div_ceil(FOUR) {
                let (scale, minimum) = of_group(self.group_of(first + half * FOUR));
                scales[half * FOUR..][..FOUR].fill(scale);
                minima[half * FOUR..][..FOUR].fill(minimum);
            }
        } else {
            for i in 0..parts {
                (scales[i], minima[i]) = of_group(self.group_of(first + i));
            }
        }
        Numbers {
            scales: [L::floats(&scales); 2],
            minima: L::floats(&minima),
        }
    }

    #[inline(always)]
    fn part<L: Level>(bytes: &[u8], i: usize) -> L::Bytes {
        let bytes = &bytes[i * Self::PART_BYTES..];
        let whole = "an eight has as many parts as it is asked for";
        if BITS == 8 {
            L::bytes(bytes.first_chunk().expect(whole))
        } else {
            L::pairs(bytes.first_chunk().expect(whole))
        }
    }
}

/// Parts of a group of 128.
const FOUR: usize = 4;

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
    for (eight, output) in output.chunks_mut(EIGHT * PART).enumerate() {
        let bytes = weights.eight(row, eight);
        let Numbers { scales, minima } = weights.numbers::<L>(row, eight, bytes);
        let scales = scales.map(L::to_array);
        let minima = L::to_array(minima);
        for (i, output) in output.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
            let integers = L::to_bytes(W::part::<L>(bytes, i));
            for (j, (output, integer)) in output.iter_mut().zip(integers).enumerate() {
                let value = (i32::from(integer) - i32::from(W::OFFSET)) as f32;
                *output = value * scales[j / (PART / 2)][i];
                if W::MINIMA {
                    *output += minima[i];
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
    let mut lefts = [LhsRow::default(); M];
    for (m, left) in lefts.iter_mut().enumerate() {
        *left = lhs.row(first_lhs + m);
    }
    let mut products = [[0.0; M]; TILE];
    for (products, row) in products.iter_mut().zip(rows) {
        let mut sums = Sums::<L, M> {
            products: [[L::zeros(); M]; CHAINS],
            minima: [L::zeros(); M],
        };
        let parts = lefts[0].parts.len();
        for eight in 0..parts / EIGHT {
            sums.add::<W>(weights, row, eight, EIGHT, &lefts);
        }
        if !parts.is_multiple_of(EIGHT) {
            sums.add::<W>(weights, row, parts / EIGHT, parts % EIGHT, &lefts);
        }
        let ones = L::floats(&[1.0; LANES]);
        for (m, product) in products.iter_mut().enumerate() {
            let [first, second] = sums.products;
            let mut sum = L::multiply_add(ones, first[m], second[m]);
            if W::MINIMA {
                sum = L::multiply_add(ones, sums.minima[m], sum);
            }
            *product = L::sum(sum);
        }
    }
    products
}

/// Sums of one weight row with `M` LHS rows.
struct Sums<L: Level, const M: usize> {
    products: [[L::Floats; M]; CHAINS],
    /// What is added to weights, times the sums of parts; a lane for each of eight parts.
    minima: [L::Floats; M],
}

impl<L: Level, const M: usize> Sums<L, M> {
    /// Adds the products of an eight; neighbouring parts belong to the chains in turn.
    #[inline(always)]
    fn add<W: IntegerRows>(
        &mut self,
        weights: &W,
        row: usize,
        eight: usize,
        parts: usize,
        lhs: &[LhsRow<'_>; M],
    ) {
        let bytes = weights.eight(row, eight);
        let numbers = weights.numbers::<L>(row, eight, bytes);
        let mut scales = [[[0.0; EIGHT]; 2]; M];
        let mut lefts: [&[Part]; M] = [&[]; M];
        for m in 0..M {
            let x = &lhs[m].eights[eight];
            let of_rows = L::floats(&x.scales);
            scales[m][0] = L::to_array(L::multiply(numbers.scales[0], of_rows));
            if W::HALVES {
                scales[m][1] = L::to_array(L::multiply(numbers.scales[1], of_rows));
            }
            if W::MINIMA {
                let sums = L::floats(&x.sums);
                self.minima[m] = L::multiply_add(numbers.minima, sums, self.minima[m]);
            }
            lefts[m] = &lhs[m].parts[eight * EIGHT..][..parts];
        }
        // Chains are named by numbers that the compiler knows: sums stay in registers.
        if parts == EIGHT {
            for i in (0..EIGHT).step_by(2) {
                self.add_part::<W, 0>(bytes, i, &scales, &lefts);
                self.add_part::<W, 1>(bytes, i + 1, &scales, &lefts);
            }
        } else {
            for i in 0..parts {
                self.add_part::<W, 0>(bytes, i, &scales, &lefts);
            }
        }
    }

    /// Adds the products of a part, the `i`-th one of an eight.
    #[inline(always)]
    fn add_part<W: IntegerRows, const CHAIN: usize>(
        &mut self,
        bytes: &[u8],
        i: usize,
        scales: &[[[f32; EIGHT]; 2]; M],
        lhs: &[&[Part]; M],
    ) {
        let integers = W::part::<L>(bytes, i);
        for m in 0..M {
            let x = &lhs[m][i];
            let scale = [scales[m][0][i], scales[m][usize::from(W::HALVES)][i]];
            let sum = &mut self.products[CHAIN][m];
            *sum = if W::WIDE {
                L::scale_add(L::dot::<true>(integers, &x.values, &x.start), scale, *sum)
            } else {
                L::scale_add(L::dot::<false>(integers, &x.values, &x.start), scale, *sum)
            };
        }
    }
}
