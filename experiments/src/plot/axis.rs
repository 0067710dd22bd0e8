//! An axis with names at given places.

use std::ops::Range;

use plotters::coord::{
    ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    types::RangedCoordf64,
};

/// A linear axis, whose names stand at round values or where they are asked for.
pub struct Axis {
    axis: RangedCoordf64,
    named: Option<Vec<f64>>,
}

impl Axis {
    /// An axis with names at round values.
    pub fn round(ends: Range<f64>) -> Self {
        Self {
            axis: ends.into(),
            named: None,
        }
    }

    /// An axis with names at some values, but none so close to the one before it that the two would
    /// touch.
    pub fn named(ends: Range<f64>, values: impl Iterator<Item = f64>) -> Self {
        const MOST: f64 = 12.0;
        let apart = (ends.end - ends.start) / MOST;
        let mut values = values.collect::<Vec<_>>();
        values.sort_by(f64::total_cmp);
        let mut named = Vec::<f64>::new();
        for value in values {
            if named.last().is_none_or(|last| value - last >= apart) {
                named.push(value);
            }
        }
        Self {
            axis: ends.into(),
            named: Some(named),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.axis.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match &self.named {
            Some(named) => named.clone(),
            None => self.axis.key_points(hint),
        }
    }

    fn range(&self) -> Range<f64> {
        self.axis.range()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_the_values_and_do_not_touch() {
        let named = |values: &[f64]| Axis::named(0.0..12.0, values.iter().copied()).key_points(8);
        assert_eq!(named(&[9.5, 1.0, 9.5]), [1.0, 9.5]);
        assert_eq!(named(&[1.0, 1.9, 2.1]), [1.0, 2.1]);
        assert_eq!(Axis::round(0.0..1.0).key_points(3), [0.0, 0.5, 1.0]);
    }
}
