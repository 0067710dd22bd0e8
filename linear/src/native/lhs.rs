use super::level::{BYTES, LANES};
use crate::blocks::PART;

const _: () = assert!(PART == BYTES);

/// LHS rows in bytes: 32 neighbouring channels share a scale.
///
/// A row is off by half a step of its scale at most, `max |x| / 254` of 32 neighbours; that is what
/// dot products of bytes cost.
pub(super) struct LhsBytes {
    /// `[rows, parts]`
    parts: Vec<Part>,
    per_row: usize,
}

/// 32 channels.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub(super) struct Part {
    /// What sums of products begin with: four neighbouring values each, times what the weights' integers
    /// are too large by, taken away.
    pub start: [i32; LANES],
    pub values: [i8; PART],
    pub scale: f32,
    /// Of the channels, as they are in bytes.
    pub sum: f32,
}

impl LhsBytes {
    /// Rows of `d_input` channels, for weights whose integers are too large by `offset`.
    #[inline(always)]
    pub(super) fn new(rows: &[f32], d_input: usize, offset: u8) -> Self {
        let parts = rows.as_chunks::<PART>().0.iter();
        Self {
            parts: parts.map(|x| Part::new(x, offset)).collect(),
            per_row: d_input / PART,
        }
    }

    pub(super) fn row(&self, row: usize) -> &[Part] {
        &self.parts[row * self.per_row..][..self.per_row]
    }
}

impl Part {
    #[inline(always)]
    fn new(x: &[f32; PART], offset: u8) -> Self {
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
        Self {
            start: start.map(|sum| -sum * i32::from(offset)),
            values,
            // Not a number stays one, and so does infinity: their rows have no other answer.
            scale: if x.iter().all(|x| x.is_finite()) {
                scale
            } else {
                f32::NAN
            },
            sum: sum as f32 * scale,
        }
    }
}

/// The nearest integer of a number of at most 127.
#[inline(always)]
fn rounded(x: f32) -> i8 {
    // The number's integer bits are the lowest of the sum; rounding to them is the addition's.
    const SHIFT: f32 = (3 << 22) as f32;
    (x + SHIFT).to_bits() as i8
}
