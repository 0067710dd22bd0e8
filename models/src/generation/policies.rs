use quest_burn::policy::{DensePolicy, PagePolicy};

/// What the tokens of prompts attend to, and what decoded tokens do.
///
/// Made of one policy, it is what decoded tokens attend to, and prompts attend densely.
#[derive(Clone, Copy, Debug)]
pub struct Policies<'a> {
    /// What [prompts](PagePolicy::prefill_attention) go through.
    pub prefill: &'a dyn PagePolicy,
    /// What decoded tokens go through.
    pub decode: &'a dyn PagePolicy,
}

impl<'a> From<&'a dyn PagePolicy> for Policies<'a> {
    fn from(decode: &'a dyn PagePolicy) -> Self {
        Self {
            prefill: &DensePolicy,
            decode,
        }
    }
}

impl<'a, P: PagePolicy> From<&'a P> for Policies<'a> {
    fn from(decode: &'a P) -> Self {
        Self::from(decode as &dyn PagePolicy)
    }
}
