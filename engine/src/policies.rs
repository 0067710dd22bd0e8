use std::sync::Arc;

use quest_burn::policy::PagePolicy;

use crate::{Policy, pages::Origin};

/// The policies that requests have asked for, numbered.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    known: Vec<(Policy, Arc<dyn PagePolicy>)>,
}

impl Policies {
    /// The number of a policy, which was checked when the request was handed in.
    pub(crate) fn number(&mut self, policy: &Policy) -> usize {
        if let Some(number) = self.known.iter().position(|(known, _)| known == policy) {
            return number;
        }
        let made = policy.init().expect("it was checked");
        self.known.push((policy.clone(), made));
        self.known.len() - 1
    }

    pub(crate) fn get(&self, number: usize) -> &Arc<dyn PagePolicy> {
        &self.known[number].1
    }

    /// Pages up to which a policy reads all of a sequence; none of one that always does.
    pub(crate) fn dense_pages(&self, number: usize, page_size: usize) -> Option<usize> {
        match &self.known[number].0 {
            Policy::Dense => None,
            Policy::Quest(config) => Some(config.budget_pages(page_size)),
        }
    }

    /// What a sequence of a policy may read beside what dense attention has made.
    pub(crate) fn origin(&self, number: usize) -> Origin {
        match &self.known[number].0 {
            Policy::Dense => Origin::Dense,
            Policy::Quest(_) => Origin::Sparse(number),
        }
    }
}
