//! The most probable token, on the host.

/// The lowest id among those with the highest logit; none where a logit is NaN or infinite, or all
/// are negative infinity.
pub(super) fn most_probable(logits: &[f32]) -> Option<u32> {
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for (&value, id) in logits.iter().zip(0..) {
        if value.is_nan() || value == f32::INFINITY {
            return None;
        }
        if value > highest {
            (best, highest) = (Some(id), value);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_logit_wins_and_the_lower_id_among_equals() {
        assert_eq!(most_probable(&[0.5, 2.0, -1.0, 2.0]), Some(1));
        assert_eq!(most_probable(&[f32::NEG_INFINITY, -3.0]), Some(1));
        assert_eq!(most_probable(&[-0.0, 0.0]), Some(0));
    }

    #[test]
    fn logits_without_an_answer_have_none() {
        assert_eq!(most_probable(&[1.0, f32::NAN]), None);
        assert_eq!(most_probable(&[1.0, f32::INFINITY]), None);
        assert_eq!(most_probable(&[f32::NEG_INFINITY; 2]), None);
        assert_eq!(most_probable(&[]), None);
    }
}
