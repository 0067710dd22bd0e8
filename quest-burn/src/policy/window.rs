use burn::tensor::Tensor;

use super::{PagePolicy, Pages, TokenLists};
use crate::{
    cache::{LayerCache, Step},
    ops,
    pages::{Window, one_list},
};

/// Reads the tokens of a window, as layers of some models were trained with.
///
/// Windows begin inside pages, so the tokens are listed one by one and attended to in tensor operations
/// on every device. Sequences that are not longer than the window are read as by dense attention.
#[derive(Clone, Copy, Debug)]
pub struct WindowPolicy {
    window: Window,
}

impl WindowPolicy {
    /// Of a window.
    ///
    /// # Panics
    ///
    /// When there is no token in it.
    pub fn new(window: Window) -> Self {
        assert!(
            window.tokens() > 0,
            "sliding window: expected at least 1 token, found 0"
        );
        Self { window }
    }
}

impl PagePolicy for WindowPolicy {
    fn select(&self, query: &Tensor<3>, cache: &LayerCache, step: &Step, _scale: f64) -> Pages {
        let first = |length: usize| self.window.first(length.saturating_sub(1));
        if step.lengths().iter().all(|length| first(*length) == 0) {
            return Pages::All;
        }
        let [_, n_kv_heads, _, _] = cache.dims();
        let device = query.device();
        let positions = step.lengths().iter().map(|&length| {
            let window = first(length)..length;
            one_list(window.map(|p| p as i32), n_kv_heads, &device)
        });
        Pages::Tokens(TokenLists {
            positions: positions.collect(),
            shift: None,
        })
    }

    fn tokens_read(&self, _layer: usize, length: usize, _page_size: usize) -> Option<usize> {
        Some(length - self.window.first(length.saturating_sub(1)).min(length))
    }
}

/// What `attend` gives with the policy of a layer: a window where it has one, else the model's.
pub(crate) fn within<T>(
    window: Option<Window>,
    policy: &dyn PagePolicy,
    attend: impl FnOnce(&dyn PagePolicy) -> T,
) -> T {
    match window {
        Some(window) => attend(&WindowPolicy::new(window)),
        None => attend(policy),
    }
}

/// Attention of a prompt's new tokens with the policy of a layer: to a window where it has one.
pub(crate) fn prefill_attention(
    query: Tensor<4>,
    cache: &LayerCache,
    step: &Step,
    scale: f64,
    window: Option<Window>,
    policy: &dyn PagePolicy,
) -> Tensor<4> {
    match window {
        Some(_) => ops::prefill_attention_within(query, cache, step, scale, window),
        None => policy.prefill_attention(query, cache, step, scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Read,
        fixture::{Weighted, assert_close, observed},
    };

    #[test]
    fn the_newest_tokens_are_read_wherever_pages_begin() {
        let mut layer = Weighted::new(2).prompt(&[&[1., 1.][..]; 20]);
        let policy = observed(WindowPolicy::new(Window::Sliding { tokens: 9 }));
        for newest in 20..23 {
            let (read, output) = layer.decode(&policy, &[1., 1.], &[1.; 4]);
            let window = (newest - 8..=newest).collect::<Vec<_>>();
            assert_close(&output, &[window.iter().sum::<usize>() as f32 / 9.; 4]);
            assert_eq!(read, Read::Tokens(vec![window; 2]));
        }
    }

    #[test]
    fn a_window_that_holds_the_text_reads_everything() {
        let mut layer = Weighted::new(1).prompt(&[&[1.][..]; 4]);
        let policy = observed(WindowPolicy::new(Window::Sliding { tokens: 5 }));
        assert_eq!(layer.decode(&policy, &[1.], &[1.]).0, Read::All);
        let window = Read::Tokens(vec![vec![1, 2, 3, 4, 5]]);
        assert_eq!(layer.decode(&policy, &[1.], &[1.]).0, window);
    }
}
