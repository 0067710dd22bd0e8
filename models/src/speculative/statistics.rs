/// What became of drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftStatistics {
    /// Dense passes that verified drafts.
    pub passes: usize,
    /// Tokens that were drafted.
    pub drafted: usize,
    /// Those of them that dense attention took.
    pub accepted: usize,
}

impl DraftStatistics {
    /// Share of the drafted tokens that were taken, once there were some.
    pub fn acceptance(&self) -> Option<f64> {
        (self.drafted > 0).then(|| self.accepted as f64 / self.drafted as f64)
    }

    /// Tokens that a dense pass gave, in the mean: those taken, and one of its own.
    pub fn tokens_per_pass(&self) -> Option<f64> {
        let tokens = self.accepted + self.passes;
        (self.passes > 0).then(|| tokens as f64 / self.passes as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_exist_once_there_was_a_pass() {
        let none = DraftStatistics::default();
        assert_eq!((none.acceptance(), none.tokens_per_pass()), (None, None));
        let some = DraftStatistics {
            passes: 4,
            drafted: 16,
            accepted: 12,
        };
        assert_eq!(some.acceptance(), Some(0.75));
        assert_eq!(some.tokens_per_pass(), Some(4.0));
    }
}
