use core::fmt;

use thiserror::Error;

use super::{SampleError, Sampler};

/// Which tokens may come next in one answer, as a grammar says.
pub trait TokenMask: Send {
    /// The tokens that may come next: token `i` is bit `i % 32` of word `i / 32`. Tokens past the last
    /// word may not.
    ///
    /// # Errors
    ///
    /// When the grammar cannot say, in a few words. The answer ends with that error.
    fn allowed(&mut self) -> Result<Vec<u32>, String>;

    /// Takes note of the token that was chosen; not called for a stop id of the answer.
    ///
    /// # Errors
    ///
    /// As [`allowed`](Self::allowed).
    fn accept(&mut self, id: u32) -> Result<(), String>;

    /// Whether nothing may follow what was accepted, so that the answer ends.
    fn is_complete(&self) -> bool {
        false
    }
}

impl<T: TokenMask + ?Sized> TokenMask for Box<T> {
    fn allowed(&mut self) -> Result<Vec<u32>, String> {
        (**self).allowed()
    }

    fn accept(&mut self, id: u32) -> Result<(), String> {
        (**self).accept(id)
    }

    fn is_complete(&self) -> bool {
        (**self).is_complete()
    }
}

impl fmt::Debug for dyn TokenMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenMask")
    }
}

/// Why no token can be chosen under a grammar.
#[derive(Error, Debug, Clone, PartialEq)]
pub enum MaskError {
    /// The grammar cannot say what may follow.
    #[error("grammar: {0}")]
    Grammar(String),
    /// The grammar allows no token.
    #[error("grammar: expected a token that may come next, found none")]
    NoToken,
    /// The logits of the tokens that may follow have no answer.
    #[error(transparent)]
    Sample(#[from] SampleError),
}

/// Makes tokens impossible that a mask does not allow.
///
/// # Errors
///
/// When the mask fails or allows none of the tokens.
pub fn forbid_others(logits: &mut [f32], mask: &mut dyn TokenMask) -> Result<(), MaskError> {
    let allowed = mask.allowed().map_err(MaskError::Grammar)?;
    let mut words = allowed.into_iter();
    let mut is_any = false;
    for logits in logits.chunks_mut(u32::BITS as usize) {
        let word = words.next().unwrap_or(0);
        for (bit, logit) in logits.iter_mut().enumerate() {
            match word >> bit & 1 {
                0 => *logit = f32::NEG_INFINITY,
                _ => is_any = true,
            }
        }
    }
    match is_any {
        true => Ok(()),
        false => Err(MaskError::NoToken),
    }
}

impl Sampler {
    /// Chooses a token that a mask allows, and tells the mask. `stop_ids` end the answer, so the mask does
    /// not hear of them.
    ///
    /// # Errors
    ///
    /// When the mask fails or allows none of the tokens, and as [`sample`](Self::sample).
    ///
    /// # Panics
    ///
    /// As [`sample`](Self::sample).
    pub fn sample_masked(
        &mut self,
        logits: &mut [f32],
        mask: &mut dyn TokenMask,
        stop_ids: &[u32],
    ) -> Result<u32, MaskError> {
        forbid_others(logits, mask)?;
        let id = self.sample(logits)?;
        if !stop_ids.contains(&id) {
            mask.accept(id).map_err(MaskError::Grammar)?;
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::SamplingConfig;

    /// Allows the given tokens, one after the other.
    struct Only(Vec<u32>);

    impl TokenMask for Only {
        fn allowed(&mut self) -> Result<Vec<u32>, String> {
            let mut words = vec![0; 2];
            if let Some(&id) = self.0.first() {
                words[id as usize / 32] |= 1 << (id % 32);
            }
            Ok(words)
        }

        fn accept(&mut self, id: u32) -> Result<(), String> {
            match self.0.first() == Some(&id) {
                true => self.0.remove(0),
                false => return Err(format!("token {id} may not come")),
            };
            Ok(())
        }

        fn is_complete(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[test]
    fn a_mask_s_tokens_come_whatever_the_logits() {
        let mut sampler = SamplingConfig::new().init().unwrap();
        let mut mask = Only(vec![33, 2]);
        let mut next = |mask: &mut Only, stop_ids: &[u32]| {
            let mut logits = vec![0.0; 70];
            logits[5] = 9.0;
            logits[69] = 10.0;
            sampler.sample_masked(&mut logits, mask, stop_ids)
        };
        assert_eq!(next(&mut mask, &[]), Ok(33));
        assert_eq!(next(&mut mask, &[2]), Ok(2), "a stop id is not told");
        assert!(!mask.is_complete());
        assert_eq!(next(&mut mask, &[]), Ok(2));
        assert!(mask.is_complete());
        assert_eq!(next(&mut mask, &[]), Err(MaskError::NoToken));
    }

    #[test]
    fn tokens_past_the_vocabulary_do_not_count() {
        let mut logits = [1.0; 40];
        assert_eq!(
            forbid_others(&mut logits, &mut Only(vec![41])),
            Err(MaskError::NoToken)
        );
        let mut logits = [1.0; 40];
        forbid_others(&mut logits, &mut Only(vec![39])).unwrap();
        assert_eq!(logits.iter().filter(|l| l.is_finite()).count(), 1);
    }
}
