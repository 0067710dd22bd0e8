//! Which pages of a sequence hold its prompt.

use crate::cache::Step;

/// Which pages of a sequence hold tokens that were not decoded one by one under a policy.
///
/// What the policy has not seen being decoded counts as a prompt: what was prefilled, decoded
/// through another policy, or is left of a truncated sequence. A page with tokens of both kinds is a
/// prompt page.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct PromptPages {
    /// Tokens that have been seen.
    seen: usize,
    /// For each page, whether it holds a prompt token.
    of_page: Vec<bool>,
}

impl PromptPages {
    /// After a decode step of a sequence, given what was known before.
    pub(super) fn after(before: Option<&Self>, step: &Step, sequence: usize) -> Self {
        let (start, length) = (step.starts()[sequence], step.lengths()[sequence]);
        let before = before.filter(|before| before.seen <= length);
        let mut prompt = before.cloned().unwrap_or_default();
        let size = step.page_size();
        prompt.of_page.resize(length.div_ceil(size), false);
        if prompt.seen < start {
            prompt.of_page[prompt.seen / size..start.div_ceil(size)].fill(true);
        }
        prompt.seen = length;
        prompt
    }

    /// Pages of the sequence.
    pub(super) fn n_pages(&self) -> usize {
        self.of_page.len()
    }

    /// Whether a page holds a prompt token.
    pub(super) fn is_prompt(&self, page: usize) -> bool {
        self.of_page[page]
    }

    /// Pages with a prompt token.
    pub(super) fn count(&self) -> usize {
        self.of_page.iter().filter(|&&is_prompt| is_prompt).count()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::cache::{PagedKvCache, PagedKvCacheConfig};

    fn cache() -> PagedKvCache {
        let config = PagedKvCacheConfig::for_tokens(1, 1, 2, 8, 1, 64);
        config.init(&Device::default(), DType::F32).unwrap()
    }

    fn decoded(cache: &mut PagedKvCache, tokens: usize, known: Option<PromptPages>) -> PromptPages {
        let steps = (0..tokens)
            .map(|_| cache.decode().unwrap())
            .collect::<Vec<_>>();
        let after = |known: Option<PromptPages>, step: &Step| {
            Some(PromptPages::after(known.as_ref(), step, 0))
        };
        steps.iter().fold(known, after).unwrap()
    }

    #[test]
    fn a_page_with_a_prompt_token_is_a_prompt_page() {
        let mut cache = cache();
        cache.prefill(&[9]).unwrap();
        let prompt = decoded(&mut cache, 9, None);
        assert_eq!(prompt.of_page, [true, true, false]);
        assert_eq!((prompt.count(), prompt.n_pages()), (2, 3));
    }

    #[test]
    fn what_is_prefilled_later_is_prompt_too() {
        let mut cache = cache();
        let prompt = decoded(&mut cache, 10, None);
        assert_eq!(prompt.of_page, [false, false]);
        cache.prefill(&[8]).unwrap();
        let prompt = decoded(&mut cache, 8, Some(prompt));
        assert_eq!(prompt.of_page, [false, true, true, false]);
        let again = PromptPages::after(None, &cache.decode().unwrap(), 0);
        assert_eq!(again.of_page, [true, true, true, true], "nothing is known");
    }
}
