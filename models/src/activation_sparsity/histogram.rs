//! How often scores of each size occur.

/// Bits of a score that are not told apart: scores of a bucket are within 2^-9 of each other.
const SHIFT: u32 = 14;

/// Positive floats, by the bits that are told apart.
const BUCKETS: usize = 1 << (31 - SHIFT);

/// Counts of scores from zero on.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u32>,
    total: u64,
    /// Whether a score was no finite number.
    pub is_spoilt: bool,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            is_spoilt: false,
        }
    }

    /// Counts a score, which is not negative.
    pub(super) fn add(&mut self, score: f32) {
        if score.is_finite() {
            self.counts[(score.to_bits() >> SHIFT) as usize] += 1;
            self.total += 1;
        } else {
            self.is_spoilt = true;
        }
    }

    /// The threshold at or below which the share of the scores is nearest to the one asked for.
    pub(super) fn threshold(&self, share: f64) -> f32 {
        let target = share * self.total as f64;
        // Nothing but scores of zero, which give nothing.
        let mut nearest = (0.0, target);
        let mut below = 0_u64;
        for (bucket, &count) in self.counts.iter().enumerate() {
            if count == 0 {
                continue;
            }
            below += u64::from(count);
            let distance = (below as f64 - target).abs();
            if distance < nearest.1 {
                nearest = (last_of(bucket), distance);
            }
            if below as f64 > target {
                break;
            }
        }
        nearest.0
    }

    /// Scores that are not above a threshold of such a histogram.
    pub(super) fn below(&self, threshold: f32) -> u64 {
        if threshold <= 0.0 {
            return 0;
        }
        let last = (threshold.to_bits() >> SHIFT) as usize;
        let below = self.counts[..=last].iter().map(|&count| u64::from(count));
        below.sum()
    }

    /// Scores of any size.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

/// The largest score of a bucket.
fn last_of(bucket: usize) -> f32 {
    f32::from_bits((((bucket as u32) + 1) << SHIFT) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scores: impl IntoIterator<Item = f32>) -> Histogram {
        let mut histogram = Histogram::new();
        scores.into_iter().for_each(|score| histogram.add(score));
        histogram
    }

    #[test]
    fn half_of_the_scores_are_below_the_threshold_of_a_half() {
        let scores = (1..=8).map(|i| i as f32 / 10.0);
        let histogram = of(scores.clone());
        let threshold = histogram.threshold(0.5);
        assert!((0.4..0.402).contains(&threshold), "{threshold}");
        assert_eq!(scores.filter(|&x| x <= threshold).count(), 4);
        assert_eq!((histogram.below(threshold), histogram.total()), (4, 8));
    }

    #[test]
    fn any_share_is_met_to_a_bucket() {
        let scores: Vec<f32> = (0..10_000)
            .map(|i| (i * 7919 % 10_000) as f32 / 1e4)
            .collect();
        let histogram = of(scores.iter().copied());
        for share in [0.0, 0.1, 0.25, 0.5, 0.7, 0.99] {
            let threshold = histogram.threshold(share);
            let below = scores.iter().filter(|&&x| x <= threshold).count() as f64 / 1e4;
            assert!((below - share).abs() < 2e-3, "{share}: {below}");
        }
    }

    #[test]
    fn nothing_but_zeros_is_skipped_where_nothing_is_asked_for() {
        assert_eq!(of([0.5, 0.7]).threshold(0.0), 0.0);
        assert_eq!(of([]).threshold(0.5), 0.0);
    }

    #[test]
    fn what_is_no_number_spoils_a_histogram() {
        assert!(!of([1.0, f32::MAX]).is_spoilt);
        assert!(of([1.0, f32::NAN]).is_spoilt);
        assert!(of([f32::INFINITY]).is_spoilt);
    }
}
