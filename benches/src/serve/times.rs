use std::time::Duration;

use serde::Serialize;

/// Milliseconds that half, and all but one in a hundred, do not exceed, and the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Times {
    pub p50: f64,
    pub p99: f64,
    pub most: f64,
}

impl Times {
    pub(super) fn of(times: impl Iterator<Item = Duration>) -> Option<Self> {
        let times = times.map(|time| time.as_secs_f64() * 1e3);
        let mut times = times.collect::<Vec<_>>();
        times.sort_unstable_by(f64::total_cmp);
        let last = times.len().checked_sub(1)?;
        // The smallest that so many do not exceed.
        let at = |share: f64| times[((share * times.len() as f64).ceil() as usize - 1).min(last)];
        Some(Self {
            p50: at(0.5),
            p99: at(0.99),
            most: times[last],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_times_are_times_that_were_measured() {
        let ms = |times: &[u64]| Times::of(times.iter().map(|&ms| Duration::from_millis(ms)));
        let found = ms(&[4, 1, 3, 2]).unwrap();
        assert_eq!((found.p50, found.p99, found.most), (2.0, 4.0, 4.0));
        let many = (1..=200).rev().collect::<Vec<_>>();
        let found = ms(&many).unwrap();
        assert_eq!((found.p50, found.p99, found.most), (100.0, 198.0, 200.0));
        assert_eq!(ms(&[]), None);
        assert_eq!(ms(&[7]).unwrap().p50, 7.0);
    }
}
