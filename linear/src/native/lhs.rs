use super::level::{BYTES, LANES};
use crate::blocks::PART;

const _: () = assert!(PART == BYTES);

/// Parts whose scales are a vector.
pub(super) const EIGHT: usize = LANES;

/// LHS rows in bytes: 32 neighbouring channels share a scale.
///
/// A row is off by half a step of its scale at most, `max |x| / 254` of 32 neighbours; that is what
/// dot products of bytes cost.
pub(super) struct LhsBytes {
    /// `[rows, parts]`
    parts: Vec<Part>,
    /// `[rows, eights]`
    eights: Vec<EightParts>,
    per_row: usize,
}

/// 32 channels.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Part {
    /// What sums of products begin with: four neighbouring values each, times what the weights' integers
    /// are too large by, taken away.
    pub start: [i32; LANES],
    pub values: [i8; PART],
}

/// What eight neighbouring parts have besides; zeros where there are fewer.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub(super) struct EightParts {
    pub scales: [f32; EIGHT],
    /// Of the channels, as they are in bytes.
    pub sums: [f32; EIGHT],
}

/// A row in bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct LhsRow<'a> {
    pub parts: &'a [Part],
    pub eights: &'a [EightParts],
}

impl LhsBytes {
    /// Rows of `d_input` channels, for weights whose integers are too large by `offset`.
    #[inline(always)]
    pub(super) fn new(rows: &[f32], d_input: usize, offset: u8) -> Self {
        let per_row = d_input / PART;
        let mut parts = Vec::with_capacity(rows.len() / PART);
        let mut eights = Vec::with_capacity(rows.len() / d_input * per_row.div_ceil(EIGHT));
        for row in rows.chunks_exact(d_input) {
            for channels in row.as_chunks::<PART>().0.chunks(EIGHT) {
                let mut eight = EightParts::default();
                for (i, x) in channels.iter().enumerate() {
                    let part;
                    (part, eight.scales[i], eight.sums[i]) = Part::new(x, offset);
                    parts.push(part);
                }
                eights.push(eight);
            }
        }
        Self {
            parts,
            eights,
            per_row,
        }
    }

    pub(super) fn row(&self, row: usize) -> LhsRow<'_> {
        let eights = self.per_row.div_ceil(EIGHT);
        LhsRow {
            parts: &self.parts[row * self.per_row..][..self.per_row],
            eights: &self.eights[row * eights..][..eights],
        }
    }
}

impl Part {
    /// The part, its scale and its sum.
    #[inline(always)]
    fn new(x: &[f32; PART], offset: u8) -> (Self, f32, f32) {
        let greatest = x.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let scale = greatest / 127.0;
        let inverse = if greatest > 0.0 {
            127.0 / greatest
        } else {
            0.0
        };
        let mut values = [0_i8; PART];
        for (value, x) in values.iter_mut().zip(x) {
            *value = rounded(x * inverse);
        }
        let mut start = [0_i32; LANES];
        for (i, value) in values.iter().enumerate() {
            start[i / 4] += i32::from(*value);
        }
        let sum: i32 = start.iter().sum();
        let part = Self {
            start: start.map(|sum| -sum * i32::from(offset)),
            values,
        };
        let sum = sum as f32 * scale;
        // Not a number stays one, and so does infinity: their rows have no other answer.
        let is_finite = x.iter().all(|x| x.is_finite());
        (part, if is_finite { scale } else { f32::NAN }, sum)
    }
}

/// What rows lose when they are rounded to 8 bits.
///
/// # Shapes
///
/// - rows, output: `[m, d_input]`, where `d_input` is a multiple of 32
///
/// # Panics
///
/// When it is not.
pub(crate) fn rounded_off(rows: &[f32], d_input: usize) -> Vec<f32> {
    let mut left_off = rows.to_vec();
    let (parts, rest) = left_off.as_chunks_mut::<PART>();
    assert!(
        rest.is_empty() && d_input.is_multiple_of(PART),
        "input channels: expected a multiple of {PART}, found {d_input}"
    );
    for x in parts {
        let (part, scale, _) = Part::new(x, 0);
        for (x, value) in x.iter_mut().zip(part.values) {
            *x -= f32::from(value) * scale;
        }
    }
    left_off
}

/// The nearest integer of a number of at most 127.
#[inline(always)]
fn rounded(x: f32) -> i8 {
    // The number's integer bits are the lowest of the sum; rounding to them is the addition's.
    const SHIFT: f32 = (3 << 22) as f32;
    (x + SHIFT).to_bits() as i8
}
