/// When the pages of each sequence were chosen, where a choice serves several steps.
pub(super) struct Choices {
    /// Tokens that a sequence had then.
    made_at: Vec<Option<usize>>,
}

impl Choices {
    /// Nothing is chosen yet.
    pub(super) fn none(batch: usize) -> Self {
        Self {
            made_at: vec![None; batch],
        }
    }

    /// Which sequences choose anew in a step: those that are active, of which `length` tokens are there after it, and
    /// that no choice serves. `serves` is told when it was made and the length.
    pub(super) fn renew(
        &mut self,
        sequences: impl Iterator<Item = (bool, usize)>,
        serves: impl Fn(usize, usize) -> bool,
    ) -> Vec<bool> {
        let choose = |(made_at, (is_active, length)): (&mut Option<usize>, (bool, usize))| {
            let is_due = is_active && !made_at.is_some_and(|made_at| serves(made_at, length));
            if is_due {
                *made_at = Some(length);
            }
            is_due
        };
        self.made_at.iter_mut().zip(sequences).map(choose).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_chooses_when_no_choice_serves_it() {
        let mut choices = Choices::none(3);
        let serves = |made_at: usize, length: usize| length < made_at + 2;
        let mut renew = |active: [bool; 3], lengths: [usize; 3]| {
            choices.renew(active.into_iter().zip(lengths), serves)
        };
        assert_eq!(renew([true, true, false], [5, 9, 3]), [true, true, false]);
        assert_eq!(renew([true; 3], [6, 10, 4]), [false, false, true]);
        assert_eq!(renew([true; 3], [7, 11, 5]), [true, true, false]);
        assert_eq!(renew([true; 3], [8, 12, 6]), [false, false, true]);
    }
}
