use serde::{Deserialize, Serialize};

use crate::results::round_trip;

/// Perplexity at a position of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerplexityPoint {
    /// Tokens of the text up to here.
    pub position: usize,
    /// Perplexity of all tokens that were scored up to here.
    pub running: f64,
    /// Perplexity of the tokens since the point before.
    pub window: f64,
}

impl PerplexityPoint {
    /// As it comes back from a file.
    pub(super) fn rounded(self) -> Self {
        Self {
            position: self.position,
            running: round_trip(self.running),
            window: round_trip(self.window),
        }
    }
}

/// Perplexity of scored tokens: the exponential of their mean negative log-likelihood, in nats.
///
/// It is not a number where there are none.
pub fn perplexity(nll: &[f32]) -> f64 {
    mean(nll).exp()
}

/// Mean negative log-likelihood, in nats.
///
/// It is not a number where there are none.
pub fn mean(nll: &[f32]) -> f64 {
    nll.iter().copied().map(f64::from).sum::<f64>() / nll.len() as f64
}

/// Perplexity after every `window` scored tokens, and after the last.
///
/// `unscored` tokens of the text come before those that were scored.
///
/// # Panics
///
/// When the window is empty.
pub fn perplexity_curve(nll: &[f32], unscored: usize, window: usize) -> Vec<PerplexityPoint> {
    let (mut sum, mut scored) = (0.0, 0);
    let points = nll.chunks(window).map(|chunk| {
        sum += chunk.iter().copied().map(f64::from).sum::<f64>();
        scored += chunk.len();
        PerplexityPoint {
            position: unscored + scored,
            running: (sum / scored as f64).exp(),
            window: perplexity(chunk),
        }
    });
    points.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_the_exponential_of_the_mean() {
        let nll = [2f32.ln(), 8f32.ln()];
        assert!((perplexity(&nll) - 4.0).abs() < 1e-6);
        assert_eq!(perplexity(&[0.0; 3]), 1.0, "a model that is certain");
    }

    #[test]
    fn a_curve_has_a_point_per_window_and_one_at_the_end() {
        let nll = [2f32, 4.0, 1.0, 1.0, 16.0].map(f32::ln);
        let points = perplexity_curve(&nll, 10, 2);
        let positions = points.iter().map(|point| point.position);
        assert_eq!(positions.collect::<Vec<_>>(), [12, 14, 15]);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(points[0].window, 8f64.sqrt());
        close(points[0].running, 8f64.sqrt());
        close(points[1].window, 1.0);
        close(points[1].running, 8f64.powf(0.25));
        close(points[2].window, 16.0);
        close(points[2].running, perplexity(&nll));
    }

    #[test]
    fn nothing_scored_is_no_point() {
        assert!(perplexity_curve(&[], 7, 4).is_empty());
        assert!(perplexity(&[]).is_nan());
    }
}
