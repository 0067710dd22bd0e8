//! Where the axes are named, and how.

use std::ops::Range;

/// Fewer names do not show that an axis is logarithmic.
const LEAST_TICKS: usize = 3;
/// Names of contexts are this part of their axis apart at least.
const CONTEXT_SPACING: f64 = 1.0 / 16.0;

/// Round numbers within positive bounds, of the coarsest division of decades that has enough.
pub fn ticks(bounds: &Range<f64>) -> Vec<f64> {
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
        if ticks.len() >= LEAST_TICKS {
            break;
        }
    }
    ticks
}

/// The contexts that occur, without those too close to the one before to be named.
pub fn contexts(mut occurring: Vec<f64>, bounds: &Range<f64>) -> Vec<f64> {
    occurring.sort_by(f64::total_cmp);
    let spacing = (bounds.end / bounds.start).powf(CONTEXT_SPACING);
    let mut named = Vec::<f64>::new();
    for context in occurring {
        if named.last().is_none_or(|last| context > last * spacing) {
            named.push(context);
        }
    }
    named
}

/// `128`, `4K`, `1000`.
pub fn tokens(context: f64) -> String {
    match context % 1024.0 == 0.0 {
        true => format!("{}K", context / 1024.0),
        false => context.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn contexts_are_named_as_they_are_and_apart() {
        let named = contexts(vec![320.0, 256.0, 256.0, 384.0], &(204.8..480.0));
        let names = named.into_iter().map(tokens).collect::<Vec<_>>();
        assert_eq!(names, ["256", "320", "384"]);
        let close = contexts(vec![65536.0, 1024.0, 65600.0], &(819.2..82000.0));
        assert_eq!(close, [1024.0, 65536.0]);
        assert_eq!(
            (tokens(1024.0), tokens(1536.0)),
            ("1K".into(), "1536".into())
        );
    }
}
