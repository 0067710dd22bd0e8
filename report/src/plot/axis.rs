//! An axis with names at given places.

use std::ops::Range;

use plotters::coord::{
    ranged1d::{DefaultFormatting, KeyPointHint, Ranged},
    types::RangedCoordf64,
};

/// Fewer names do not show that an axis is logarithmic.
const MIN_TICKS: usize = 3;

/// A linear axis, whose names stand at round values or where they are asked for.
pub(super) struct Axis {
    axis: RangedCoordf64,
    named: Option<Vec<f64>>,
}

impl Axis {
    /// An axis with names at round values.
    pub(super) fn round(ends: Range<f64>) -> Self {
        Self {
            axis: ends.into(),
            named: None,
        }
    }

    /// An axis with names at some values, but none so close to the one before it that the two would
    /// touch.
    pub(super) fn named(ends: Range<f64>, values: impl Iterator<Item = f64>) -> Self {
        const MAX_NAMES: f64 = 12.0;
        let apart = (ends.end - ends.start) / MAX_NAMES;
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

    /// An axis of decimal logarithms, with names at round numbers.
    pub(super) fn log10(places: impl Iterator<Item = f64>) -> Self {
        const MARGIN: f64 = 0.09;
        let (low, high) = bounds(places);
        let range = low - MARGIN..high + MARGIN;
        let bounds = 10_f64.powf(range.start)..10_f64.powf(range.end);
        let named = ticks(&bounds).into_iter().map(f64::log10).collect();
        Self {
            axis: range.into(),
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

/// The ends of some values, with a margin; never the same value twice.
pub(super) fn ends(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let (low, high) = bounds(values);
    let margin = match high - low {
        span if span > 0.0 => span * margin,
        _ => (low.abs() * 0.1).max(0.5),
    };
    low - margin..high + margin
}

/// Minimum and maximum of some values.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// Round numbers within positive bounds, of the coarsest division of decades that has enough.
fn ticks(bounds: &Range<f64>) -> Vec<f64> {
    // In tenths of a decade's first number.
    let divisions = [
        vec![10],
        vec![10, 20, 50],
        (10..100).step_by(10).collect(),
        (10..100).step_by(5).collect(),
        (10..100).collect::<Vec<u32>>(),
    ];
    let decades = bounds.start.log10().floor() as i32..=bounds.end.log10().floor() as i32;
    let mut ticks = Vec::new();
    for division in divisions {
        let all = decades.clone().flat_map(|decade| {
            // Read from text, a tick is the number that its name says.
            let tick = |tenths: &u32| format!("{tenths}e{}", decade - 1).parse::<f64>();
            division.iter().flat_map(tick).collect::<Vec<_>>()
        });
        ticks = all.filter(|tick| bounds.contains(tick)).collect();
        if ticks.len() >= MIN_TICKS {
            break;
        }
    }
    ticks
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

    #[test]
    fn ends_are_apart_even_where_all_values_are_equal() {
        assert_eq!(ends([1.0, 3.0].into_iter(), 0.05), 0.9..3.1);
        assert_eq!(ends([0.0].into_iter(), 0.05), -0.5..0.5);
        assert_eq!(ends([20.0, 20.0].into_iter(), 0.05), 18.0..22.0);
    }

    #[test]
    fn an_axis_within_a_decade_has_ticks() {
        assert_eq!(ticks(&(1.7..4.4)), [2.0, 3.0, 4.0]);
        assert_eq!(ticks(&(2.6..4.1)), [3.0, 3.5, 4.0]);
        assert_eq!(ticks(&(1.016..1.32)), [1.1, 1.2, 1.3]);
        assert_eq!(ticks(&(0.8..2.5)), [0.8, 0.9, 1.0, 2.0]);
        for size in 1..1000 {
            // A single result's bounds.
            let size = f64::from(size) / 100.0;
            let found = ticks(&(size * 0.8..size * 1.25)).len();
            assert!((3..=15).contains(&found), "{size}: {found}");
        }
    }

    #[test]
    fn longer_axes_have_round_ticks() {
        let found = ticks(&(3.0..120.0));
        assert_eq!(found, [5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(ticks(&(0.005..3.0)), [0.01, 0.1, 1.0]);
        let names = ticks(&(0.0002..0.003)).into_iter();
        let names = names.map(|tick| tick.to_string()).collect::<Vec<_>>();
        assert_eq!(names, ["0.0002", "0.0005", "0.001", "0.002"]);
    }
}
