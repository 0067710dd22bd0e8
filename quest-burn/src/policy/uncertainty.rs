//! When a model is uncertain: the entropies of its last distributions are high, or differ much.

use crate::FixedPoint;

/// Whether the mean of some entropies, in nats, or their variance is above its threshold. Of none, neither is.
pub(super) fn is_uncertain(
    entropies: &[f32],
    mean_above: FixedPoint,
    variance_above: FixedPoint,
) -> bool {
    if entropies.is_empty() {
        return false;
    }
    let n = entropies.len() as f64;
    let values = || entropies.iter().map(|&entropy| f64::from(entropy));
    let mean = values().sum::<f64>() / n;
    let variance = values().map(|h| (h - mean).powi(2)).sum::<f64>() / n;
    mean > f64::from(mean_above) || variance > f64::from(variance_above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_or_changing_entropies_are_uncertain() {
        let uncertain = |entropies: &[f32]| {
            let [mean, variance] = ["1.5", "0.25"].map(|text| text.parse().unwrap());
            is_uncertain(entropies, mean, variance)
        };
        assert!(!uncertain(&[1.0; 8]));
        // Mean 1, variance 1.
        assert!(uncertain(&[0.0, 2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 2.0]));
        assert!(uncertain(&[2.0; 8]));
        // Mean 1.5 and variance 0.25: at both thresholds, above none.
        assert!(!uncertain(&[1.0, 2.0]));
        assert!(!uncertain(&[]));
    }
}
